"""Values of options of a command line, checked as they are read: argparse prints the message in one line."""

import argparse


def positive(given: str) -> int:
    """A whole number of 1 or more. Raises ArgumentTypeError."""
    if not (given.isascii() and given.isdecimal()) or int(given) == 0:
        raise argparse.ArgumentTypeError(f"{given!r} is not a whole number of 1 or more")
    return int(given)
