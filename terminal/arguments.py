"""The command line of a program, and values of its options, checked as they are read."""

import argparse
import sys
from typing import Any


class CommandLine(argparse.ArgumentParser):
    """A command line whose help has the line breaks of `description`, and names the program as it was called.

    prog : if the program is not called as `python -m package.module`
    """

    def __init__(self, description: str | None = None, *, prog: str | None = None, **options: Any) -> None:
        options.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(prog=prog or _called_as(), description=description, **options)


def _called_as() -> str | None:
    """`python -m package.module`, where Python was told so; argparse would take the name of the file."""
    spec = sys.modules["__main__"].__spec__
    return None if spec is None else f"python -m {spec.name.removesuffix('.__main__')}"


def positive(given: str) -> int:
    """A whole number of 1 or more. Raises ArgumentTypeError, whose message argparse prints in one line."""
    if not (given.isascii() and given.isdecimal()) or int(given) == 0:
        raise argparse.ArgumentTypeError(f"{given!r} is not a whole number of 1 or more")
    return int(given)
