"""The command line as a program: Ctrl-C ends it with one line, also while it starts."""

import sys


def main() -> int:
    """Run the command line; its exit code."""
    try:
        from prelim_client import command_line

        return command_line.main()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
