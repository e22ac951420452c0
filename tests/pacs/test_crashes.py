"""Nothing is lost and nothing is doubled when the bridge is killed and the PACS is away."""

import random
import time
from collections.abc import Callable

import pytest

from tests.bridge.studies import STUDY, radiograph
from tests.pacs.conftest import Department, check_file, wait_for

pytestmark = pytest.mark.pacs

MakeDepartment = Callable[..., Department]


def _run(department: Department, *, studies: int, kills: int, outages: int, away_s: float) -> None:
    """Send studies one after another; meanwhile kill the bridge and stop the PACS at random moments."""
    # The moments differ from run to run; which they were is in the output.
    seed = time.time_ns()
    print(f"seed {seed}")
    chance = random.Random(seed)
    events = sorted((chance.uniform(0, studies), kind) for kind in ["kill"] * kills + ["outage"] * outages)
    sent = 0
    while sent < studies or events:
        while events and events[0][0] <= sent:
            _, kind = events.pop(0)
            time.sleep(chance.uniform(0, 1.5))
            if kind == "kill":
                department.bridge.kill()
                time.sleep(chance.uniform(0, 0.5))
                department.bridge.start(wait=False)
            else:
                department.pacs.stop()
                time.sleep(away_s)
                department.pacs.start()
        if sent < studies:
            number = min(5, studies - sent)
            department.send(*(radiograph(study=f"{STUDY}.{sent + n + 1}") for n in range(number)))
            sent += number


def _check(department: Department, studies: int) -> None:
    """Every study has one draft and an outcome, and every draft is valid."""
    wait_for(lambda: len(department.pacs.reports()) >= studies, seconds=60 + 3 * studies)
    # Long enough for a second draft to appear, if one were to.
    wait_for(lambda: f"waiting   0\nreported  {studies}\n" in department.bridge.queue("status").stdout, seconds=120)
    reports = department.pacs.reports()
    assert len(reports) == len(set(reports)) == studies
    assert {len(department.pacs.reports(f"{STUDY}.{number + 1}")) for number in range(studies)} == {1}
    for report in reports[::20]:
        path = department.folder / "report.dcm"
        path.write_bytes(department.pacs.file(report))
        assert check_file(path) == []


def test_kills_and_outages_lose_and_double_nothing(make_department: MakeDepartment) -> None:
    """A sample of the test below."""
    department = make_department()
    _run(department, studies=12, kills=3, outages=1, away_s=3)
    _check(department, 12)


@pytest.mark.exhaustive
def test_200_studies_survive_10_kills_and_2_outages(make_department: MakeDepartment) -> None:
    """200 studies, ten kills, the PACS away twice for 20 s: 200 drafts, none twice, no study without an outcome."""
    department = make_department()
    _run(department, studies=200, kills=10, outages=2, away_s=20)
    _check(department, 200)


STAGES = {
    "before anything is recorded": "take",
    "while the server writes": "request",
    "before the draft is stored": "store",
    "after the draft is stored": "record",
}


@pytest.mark.parametrize("stage", STAGES.values(), ids=STAGES)
def test_a_kill_at_every_stage(make_department: MakeDepartment, stage: str) -> None:
    """Killed there and started again, the bridge stores one draft."""
    department = make_department(hook={"port": 18190}, poll={"every_s": 1})
    department.bridge.stop()
    department.send(radiograph())
    department.bridge.start_and_kill_at(stage)
    department.bridge.start()

    reports = wait_for(department.pacs.reports)
    wait_for(lambda: "reported  1\n" in department.bridge.queue("status").stdout)
    assert department.pacs.reports() == reports
    assert len(reports) == 1
