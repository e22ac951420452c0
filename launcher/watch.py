"""Run a command that says nothing until its end, and show that it runs.

python -m launcher.watch .venv/bin/mypy
"""

import subprocess
import sys
from pathlib import Path

from terminal.program import sign_of_life


def main() -> int:
    """Run the command, then print what it said; its exit code."""
    command = sys.argv[1:]
    with sign_of_life(Path(command[0]).name):
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    print(done.stdout, end="")
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
