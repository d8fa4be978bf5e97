"""A real ComfyUI to demonstrate, try and test this pack in: find or build one, start it, talk to it."""
import sys


class HostError(Exception):
    """Something about the host went wrong. The message is for the user: a clear sentence, then log lines, if any."""


def printable(text: str) -> str:
    """A text for the terminal: control characters, and those that turn its direction, are written as their codes; lines and tabs stay."""
    return "".join(one if one.isprintable() or one in "\n\t" else one.encode("unicode_escape", "surrogatepass").decode() for one in text)


def exit_status(work, *arguments) -> int:
    """What a command ends with: what `work(*arguments)` returns, 1 and a sentence for a HostError, 130 for Ctrl-C."""
    try:
        return work(*arguments) or 0
    except HostError as error:
        print(printable(str(error)), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Stopped.", file=sys.stderr)
        return 130
