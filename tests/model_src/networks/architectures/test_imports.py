"""What a command that handles one system need not import."""

import subprocess
import sys


def test_transformers_is_imported_by_the_systems_that_use_it() -> None:
    """The registry of all systems does not import `transformers`, which takes seconds."""
    code = "import sys, prelim.networks.architectures; sys.exit('transformers' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=120).returncode == 0
