"""Units of systemd: valid, as closed as documented, and with the commands and folders of this project."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from launcher.environment import ROOT

pytestmark = pytest.mark.deploy

UNITS = sorted((ROOT / "deploy" / "systemd").glob("*.service"))
DECISION = (ROOT / "docs" / "decisions" / "0035-decoders-in-a-sandbox.md").read_text(encoding="utf-8")


def exposure(unit: Path) -> float:
    """What `systemd-analyze security` makes of a unit: 0 is closed, 10 is open."""
    command = ["systemd-analyze", "security", "--offline=true", "--no-pager", unit]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = re.search(r"exposure level for \S+: ([\d.]+)", done.stdout)
    assert found is not None, done.stderr
    return float(found[1])


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_exposure_is_as_documented(unit: Path, tmp_path: Path) -> None:
    """The score in the decision; and it is that of these settings: without one of them it is worse."""
    documented = float(re.search(rf"{unit.name} ([\d.]+)", DECISION)[1])  # type: ignore[index]
    assert exposure(unit) <= documented < 2.5
    weaker = tmp_path / unit.name
    weaker.write_text(unit.read_text(encoding="utf-8").replace("NoNewPrivileges=yes\n", ""), encoding="utf-8")
    assert exposure(weaker) > exposure(unit)


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_unit_is_valid(unit: Path, tmp_path: Path) -> None:
    """`systemd-analyze verify` finds nothing but that the installation is not here, and finds a planted mistake."""
    here = unit.read_text(encoding="utf-8").replace("/opt/prelim/current/.venv/bin/python", sys.executable)

    def said(text: str) -> str:
        (tmp_path / unit.name).write_text(text, encoding="utf-8")
        command = ["systemd-analyze", "verify", tmp_path / unit.name]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        # Units that this one waits for, which a container may not have.
        lines = (done.stdout + done.stderr).splitlines()
        return "\n".join(line for line in lines if unit.name in line)

    assert said(here) == ""
    assert "ProtectSytem" in said(here.replace("ProtectSystem=", "ProtectSytem="))


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_command_is_one_of_this_project(unit: Path) -> None:
    """Its options are known to the program: nothing is missing but the settings of the site."""
    text = unit.read_text(encoding="utf-8")
    command = re.search(r"(?m)^ExecStart=/opt/prelim/current/\.venv/bin/python (.*)$", text)[1].split()  # type: ignore[index]
    if command == ["-m", "launcher", "serve"]:
        command[-1] = "--version"
    done = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert "usage" not in done.stderr
    assert done.returncode == 0 or re.search(r"/etc/prelim/\w+\.yaml", done.stderr), done.stderr


def test_server_reaches_loopback_only() -> None:
    """And writes only its two folders; it is told alone to end, so that it drains."""
    (server,) = (unit.read_text(encoding="utf-8") for unit in UNITS if unit.name == "prelim.service")
    for line in ("IPAddressDeny=any", "IPAddressAllow=localhost", "ProtectSystem=strict", "KillMode=mixed"):
        assert f"\n{line}\n" in server
    assert not re.search(r"(?m)^(ReadWritePaths|BindPaths)=", server)
