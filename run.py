#!/usr/bin/env python3
"""Show, try, test and measure the node pack in a real ComfyUI: demo | serve | edit | test | bench | pictures | compose.

Needs nothing but Python 3.10. Without --comfyui it sets up the pinned ComfyUI in your cache folder on the first run.
"""
from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent
# Two processes take the whole suite's files by turns.
IN_PARALLEL = ("--numprocesses=2", "--dist=loadfile", "--no-loadscope-reorder")
# The benchmarks that are about the demo model itself or its size; the others use the small model, which is faster.
OF_THE_DEMO = ("demo-model", "boxes", "candidates", "look")
if sys.version_info < (3, 10):  # noqa: UP036 - the one file that an older Python gets to read
    sys.exit("Python 3.10 or newer is needed; this is {}.{}.".format(*sys.version_info))

from host import HostError, exit_status  # noqa: E402
from host.browser import find_browser  # noqa: E402
from host.provision import NEWEST, OLDEST, PINNED, RELEASES, Builder, Host, cache_root, existing  # noqa: E402


def main() -> int:
    """Run the command that the arguments name; returns the exit status."""
    options, rest = parser().parse_known_args()
    if rest and options.command not in ("test", "bench", "pictures", "compose"):
        parser().error(f"unknown argument: {rest[0]}")
    return exit_status(options.call, options, rest)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--comfyui", type=Path, metavar="PATH", help="use this ComfyUI with the Python it runs on")
    common.add_argument("--host-version", choices=RELEASES, metavar="VERSION",
                        help=f"use another ComfyUI than {PINNED.version}: {', '.join(list(RELEASES)[1:])}")
    common.add_argument("--python", type=Path, metavar="PATH", help="the Python of that ComfyUI, where it is not found")
    result = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = result.add_subparsers(dest="command", required=True, metavar="demo | serve | edit | test | bench | pictures | compose")

    def add(name: str, call: Callable[[argparse.Namespace, list[str]], int], text: str) -> argparse.ArgumentParser:
        # An abbreviation such as --co is for pytest or the benchmark, not for --comfyui.
        command = commands.add_parser(name, parents=[common], help=text, description=text, allow_abbrev=False)
        command.set_defaults(call=call)
        return command

    demo = add("demo", run_demo, "edit a picture and write all its stages to output/")
    demo.add_argument("--prompt", help="what to put under the mask")
    demo.add_argument("--seed", type=int, help="another seed gives other candidates")
    demo.add_argument("--image", type=Path, metavar="FILE", help="edit this picture of yours; it is cropped and scaled to what the demo model takes")
    demo.add_argument("--mask", type=Path, metavar="FILE", help="a picture of the same size, white where yours may change")
    add("serve", run_serve, "open ComfyUI with the pack and its example workflows")
    edit = add("edit", run_edit, "edit many pictures with one workflow; start it again to go on where it stopped")
    edit.add_argument("source", type=Path, metavar="FOLDER_OR_TABLE", help="pictures with their masks, or a .csv or .jsonl table with a column image")
    edit.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="where the results go, with a table of figures and a contact sheet")
    edit.add_argument("--server", metavar="URL", help="a ComfyUI that runs, with your models; without it, one starts for the time of the run")
    edit.add_argument("--workflow", default="blended_latent_edit", metavar="FILE", help="your workflow, or the name of an example")
    edit.add_argument("--set", action="append", default=[], metavar="NODE.INPUT=COLUMN", help="an input that takes a column of the table")
    test = add("test", run_test, "run the tests; further arguments go to pytest")
    test.add_argument("--fast", action="store_true", help="only the tests that need no server")
    test.add_argument("--oldest", action="store_true",
                      help=f"use ComfyUI {OLDEST.release.version} with the oldest packages, in an environment of its own; needs Python 3.10 or 3.11")
    bench = add("bench", run_bench, "run one benchmark; further arguments go to it")
    bench.add_argument("name", nargs="?", help=f"one of: {', '.join(benches()) or 'none yet'}")
    add("pictures", run_pictures, "draw the pictures of the documentation again; further arguments name some of them")
    add("compose", run_compose, "make the example workflows and the blueprint again; further arguments name some of them")
    return result


def run_demo(options: argparse.Namespace, rest: list[str]) -> int:
    """The whole pipeline, headless."""
    host = find_host(options)
    arguments = ["--prompt", options.prompt] if options.prompt else []
    arguments += ["--seed", str(options.seed)] if options.seed is not None else []
    arguments += [f"--{name}={path.resolve()}" for name, path in (("image", options.image), ("mask", options.mask)) if path]
    return run(host, ["-m", "host.demo", *host_arguments(host), *arguments], [ROOT])


def run_serve(options: argparse.Namespace, rest: list[str]) -> int:
    """The real user interface."""
    host = find_host(options)
    return run(host, ["-m", "host.serve", *host_arguments(host)], [ROOT])


def run_edit(options: argparse.Namespace, rest: list[str]) -> int:
    """Many pictures, headless."""
    host = find_host(options)
    workflow = Path(options.workflow)
    arguments = [f"--out={options.out.resolve()}", f"--workflow={workflow.resolve() if workflow.is_file() else workflow}"]
    arguments += [f"--server={options.server}"] if options.server else []
    arguments += [f"--set={setting}" for setting in options.set]
    return run(host, ["-m", "host.edit", *host_arguments(host), *arguments, str(options.source.resolve())], [ROOT])


def run_test(options: argparse.Namespace, rest: list[str]) -> int:
    """The tests, with a browser unless they are to be fast."""
    host = find_host(options, tests=True)
    arguments = [*host_arguments(host), "-c", str(ROOT / "tests" / "pytest.ini"), "--rootdir", str(ROOT / "tests")]
    if options.fast:
        arguments += ["-m", "not server and not browser"]
    else:
        arguments += [f"--browser={find_browser(host.python, host.environment())}"]
    named = any(is_test_path(word) for word in rest)
    targets = [] if named else [str(ROOT / "tests")]
    arguments += [] if named else IN_PARALLEL
    return run(host, ["-m", "pytest", *arguments, *rest, *targets], [host.comfyui, ROOT])


def is_test_path(word: str) -> bool:
    """Whether an argument for pytest names a file or folder of the tests."""
    path = Path(word.partition("::")[0])
    return path.exists() and (ROOT / "tests") in (path.resolve(), *path.resolve().parents)


def run_bench(options: argparse.Namespace, rest: list[str]) -> int:
    """One script of bench/. Raises HostError."""
    known = benches()
    if options.name not in known:
        told = f"There is no benchmark {options.name}" if options.name else "Name a benchmark"
        raise HostError(f"{told}; there are: {', '.join(known) or 'none yet'}.")
    host = find_host(options, tests=True)
    small = [] if options.name in OF_THE_DEMO else ["demo.small.run"]
    return run(host, ["-m", *small, f"bench.{options.name.replace('-', '_')}", *rest], [host.comfyui, ROOT])


def run_pictures(options: argparse.Namespace, rest: list[str]) -> int:
    """The pictures of the help pages, the examples and the README."""
    return run_in_browser("host.pictures", options, rest)


def run_compose(options: argparse.Namespace, rest: list[str]) -> int:
    """The files of the example workflows and of the blueprint."""
    return run_in_browser("host.compose", options, rest)


def run_in_browser(module: str, options: argparse.Namespace, rest: list[str]) -> int:
    """A module that works in the real user interface."""
    host = find_host(options, tests=True)
    browser = find_browser(host.python, host.environment())
    return run(host, ["-m", module, *host_arguments(host), f"--browser={browser}", *rest], [ROOT])


def benches() -> list[str]:
    """The names of the benchmarks."""
    names = (path.stem.replace("_", "-") for path in (ROOT / "bench").glob("*.py"))
    return sorted(name for name in names if not name.startswith("-"))


def find_host(options: argparse.Namespace, tests: bool = False) -> Host:
    """The ComfyUI that the options ask for, set up if need be. Raises HostError."""
    oldest = getattr(options, "oldest", False)
    given = [name for name, value in (("--comfyui", options.comfyui), ("--host-version", options.host_version), ("--oldest", oldest)) if value]
    if len(given) > 1:
        raise HostError(f"{' and '.join(given)} each name a ComfyUI: give one of them.")
    if oldest and sys.version_info >= (3, 12):
        raise HostError("--oldest needs Python 3.10 or 3.11: the oldest packages have no builds for a newer one.")
    if options.comfyui:
        return existing(options.comfyui, options.python, tests, cache_root())
    if options.python:
        raise HostError("--python goes with --comfyui: it names the Python that this ComfyUI runs on.")
    return Builder(cache_root(), pins=OLDEST if oldest else NEWEST).host(tests, options.host_version)


def host_arguments(host: Host) -> list[str]:
    """How a child process under the host's Python learns about the host.

    With "=", since pytest takes a path that stands alone for a folder of tests, and ComfyUI's has some.
    """
    return [f"--comfyui={host.comfyui}", *([f"--overlay={host.overlay}"] if host.overlay else [])]


def run(host: Host, arguments: list[str], paths: list[Path]) -> int:
    """Run the host's Python in the repository root, in place of this process where the system can."""
    command, environment = [str(host.python), *arguments], host.environment(*paths)
    os.chdir(ROOT)
    sys.stdout.flush()
    if os.name != "nt":
        os.execve(command[0], command, environment)  # so that signals reach it, and nothing is left to pass them on
    with subprocess.Popen(command, env=environment) as child:
        while True:
            try:
                return child.wait()
            except KeyboardInterrupt:
                continue  # the console has sent it to the child too


if __name__ == "__main__":
    sys.exit(main())
