"""The commands of docs/runbook.md name services, containers, folders and targets that exist."""

import importlib.util
import re

import pytest

from launcher.environment import ROOT


def read(name: str) -> str:
    """A file of the repository."""
    return (ROOT / name).read_text(encoding="utf-8")


PAGE = read("docs/runbook.md")
ROWS = {row[1]: row[0] for row in re.findall(r"^(\| \*\*(.+?)\*\*.*)$", PAGE, re.MULTILINE)}
"""Line of the table by its first word in bold."""
ACTIONS = re.findall(r"^- Action: (.*)$", PAGE, re.MULTILINE)
CHART = read("deploy/helm/templates/deployment.yaml") + read("deploy/helm/templates/_helpers.tpl")


def test_every_action_is_for_all_installations() -> None:
    """What an action names in bold is a row with a command for each of the four; none says `make` alone."""
    assert len(ACTIONS) >= 15
    used = {word for action in ACTIONS for word in re.findall(r"\*\*(.+?)\*\*", action)}
    assert used <= set(ROWS)
    assert {row.replace("\\|", "").count("|") for row in ROWS.values()} == {6}
    assert all("**" in action for action in ACTIONS if "make " in action)


@pytest.mark.parametrize(
    ("command", "known"),
    [
        (r"systemctl \w+ ((?:[\w-]+ ?)+)", {path.stem for path in (ROOT / "deploy" / "systemd").glob("*.service")}),
        (r"journalctl -u ([\w-]+)", {path.stem for path in (ROOT / "deploy" / "systemd").glob("*.service")}),
        (
            r"podman (?:exec|start|logs|restart --time 90) ([\w-]+)",
            set(re.findall(r"--name (\w+)", read("docs/container.md"))),
        ),
        (r"kubectl logs POD -c (\w+)", set(re.findall(r"- name: (\w+)", CHART))),
        (r"generic ([\w-]+)", set(re.findall(r"secret: ([\w-]+)", read("deploy/helm/values.yaml")))),
        (r"make ([\w-]+)", set(re.findall(r"^([\w-]+):", read("Makefile"), re.MULTILINE))),
    ],
)
def test_names_in_commands_exist(command: str, known: set[str]) -> None:
    """Units, containers, secrets and targets."""
    found = {name for names in re.findall(command, PAGE) for name in names.split()}
    assert found
    assert found <= known


def test_modules_and_folders_exist() -> None:
    """Programs can be imported; each installation's folder of logs, its label and its volume are those of its files."""
    modules = set(re.findall(r"python -m ([\w.]+)", PAGE))
    assert all(importlib.util.find_spec(module) for module in modules)
    set_folder = r"PRELIM_FOLDER(?:=|, value: )([\w/]+)"
    for file in (read("deploy/systemd/prelim.service"), read("deploy/image/Containerfile"), CHART):
        (folder,) = set(re.findall(set_folder, file))
        assert f"`{folder}/logs/`" in ROWS["logs"]
    assert "app.kubernetes.io/name: prelim" in CHART
    assert "app.kubernetes.io/name=prelim" in ROWS["state"]
