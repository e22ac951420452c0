"""Which tests `pytest -n` runs in one process, and in which order: a plugin of pytest.

xdist has marks for this (`--dist loadgroup`), which have no effect with pytest 9: it writes them into an attribute that
pytest no longer reads, and deals single tests to all processes, each of which then sets up every fixture.
"""

import pytest
from xdist.scheduler import LoadScopeScheduling
from xdist.workermanage import WorkerController

FIRST = "gw0"
"""The process that xdist starts first."""

SERVER = "tests/server/"
SHARING = (SERVER, "tests/training/evaluation/")
"""Folders whose tests share a server, or METEOR's program, each of which takes long to start."""

WAITING = (
    SERVER,
    "tests/launcher/",
    "tests/loadtests/",
    "tests/bulk/",
    "tests/benchmarks/serving/",
    "tests/bridge/",
    "tests/client/",
)
"""What is tested here mostly runs in other processes: servers, clusters, peers that are slow on purpose."""


def group(nodeid: str) -> str:
    """A file, whose tests share fixtures; or all tests of a folder that share what is started for them."""
    file = nodeid.partition("::")[0]
    return next((folder for folder in SHARING if file.startswith(folder)), file)


class GroupScheduling(LoadScopeScheduling):
    """Gives a whole group to one process: the first one gets those that wait, as long as there are any.

    So it leaves its core to the others, of which there can be as many as cores.
    """

    def _split_scope(self, nodeid: str) -> str:
        return group(nodeid)

    def _assign_work_unit(self, node: WorkerController) -> None:
        """Take the next group of the kind that this process is for, or else the next one."""
        waits = node.gateway.id == FIRST
        for name in self.workqueue:
            if name.startswith(WAITING) == waits:
                self.workqueue.move_to_end(name, last=False)
                break
        super()._assign_work_unit(node)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> GroupScheduling:
    """Replace the scheduler of xdist."""
    return GroupScheduling(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the groups with slow tests first: one that began last would run alone, with nothing left for the others."""
    slow = {
        group(item.nodeid) for item in items if item.get_closest_marker("server") or item.get_closest_marker("slow")
    }
    items.sort(key=lambda item: (group(item.nodeid) != SERVER, group(item.nodeid) not in slow))
