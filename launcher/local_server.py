"""TorchServe on free ports, for as long as a test or a demonstration takes.

    with LocalServer(Path("model_store")) as server:
        server.wait_until_ready("demo")
        print(HttpClient(server.url, server.key(), "demo").report(image))

It runs with the committed config.properties, of which only the ports are replaced, in a folder of its own, and is
ended by its own process id: another server on the machine is never touched.
"""

import re
import shutil
import tempfile
from pathlib import Path
from types import TracebackType

from launcher.archives import check_store
from launcher.environment import ROOT, link_installation, read_environment
from launcher.errors import using
from launcher.ports import API_COUNT, free_ports, replace_ports
from launcher.server import Server
from terminal.program import ignoring_interrupts

CONFIG = ROOT / "config.properties"


class LocalServer(Server):
    """A context manager around a TorchServe process.

    store      : folder of the archives to serve
    check      : False serves them unchecked, also those that are not of this package
    other_code : of launcher.archives.check_store

    Raises LaunchError for an archive that may not be served, if Java is missing, or if a file cannot be written.
    """

    def __init__(self, store: Path, *, check: bool = True, other_code: bool = False) -> None:
        archives = [archive.file.name for archive in check_store(store, other_code=other_code)] if check else ["all"]
        environment = read_environment()
        # In a short path, as env.sh has it: the sockets of the workers lie in it, and their names may have some 100
        # characters. With a longer one no worker is ever ready.
        parent = Path(environment["TMPDIR"]).parent
        with using(parent):
            folder = Path(tempfile.mkdtemp(prefix="prelim-", dir=parent))
        try:
            with using(folder):
                temporary = folder / "tmp"
                temporary.mkdir()
                link_installation(folder, store)
                config = folder / "config.properties"
                settings = replace_ports(CONFIG.read_text(encoding="utf-8"), free_ports(API_COUNT))
                settings = re.sub("(?m)^model_store=.*$", "model_store=model_store", settings)
                config.write_text(settings, encoding="utf-8")
            super().__init__(folder, config, environment | {"TMPDIR": str(temporary), "TEMP": str(temporary)})
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        try:
            self.start(archives)
        except BaseException:
            self.stop()
            raise

    @property
    def pid(self) -> int:
        """Id of the server's first process; Java and the workers are below it."""
        if self._starter is None:
            raise RuntimeError("the server was not started")
        return self._starter.pid

    def stop(self) -> None:
        """End the server and its workers, and remove its folder."""
        with ignoring_interrupts():
            super().stop()
            shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> "LocalServer":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()
