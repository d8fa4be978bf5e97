"""A real ComfyUI to demonstrate, try and test this pack in: find or build one, start it, talk to it."""


class HostError(Exception):
    """Something about the host went wrong. The message is for the user: a clear sentence, then log lines, if any."""
