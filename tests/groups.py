"""Which tests `pytest -n` runs in one process, and in which order: a plugin of pytest.

xdist has marks for this (`--dist loadgroup`), which have no effect with pytest 9: it writes them into an attribute that
pytest no longer reads, and deals single tests to all processes, each of which then sets up every fixture.
"""

import pytest
from xdist.scheduler import LoadScopeScheduling

SERVER = "tests/server/"

COMPILED = ("tests/model_src/decoders/", "tests/model_src/generation/", "tests/model_src/kernels/")
"""What is tested here is compiled in every process that needs it, six seconds for each precision."""


def group(nodeid: str) -> str:
    """A file, whose tests share fixtures; all tests of the server, which share servers; or all of compiled steps."""
    file = nodeid.partition("::")[0]
    if file.startswith(COMPILED):
        return COMPILED[0]
    return SERVER if file.startswith(SERVER) else file


class GroupScheduling(LoadScopeScheduling):
    """Gives a whole group to one process."""

    def _split_scope(self, nodeid: str) -> str:
        return group(nodeid)


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
