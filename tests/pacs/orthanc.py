"""A real Orthanc with its DICOMweb plugin and our hook, on loopback."""

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Any

import requests

PLUGINS = Path("/usr/share/orthanc/plugins")
HOOK = Path(__file__).resolve().parents[2] / "deploy" / "orthanc" / "prelim_hook.lua"
PROGRAMS = ("Orthanc", "storescu", "dciodvfy")


def missing() -> list[str]:
    """Return what is not installed of all that these tests need."""
    absent = [program for program in PROGRAMS if shutil.which(program) is None]
    return absent if (PLUGINS / "libOrthancDicomWeb.so").exists() else [*absent, "orthanc-dicomweb"]


class Orthanc:
    """A context manager; can be stopped and started again, with its database."""

    USER, PASSWORD, TITLE = "prelim", "secret", "ORTHANC"

    def __init__(
        self, folder: Path, *, http_port: int, dicom_port: int, bridge: str | None, stable_age: int = 2
    ) -> None:
        self.url = f"http://127.0.0.1:{http_port}"
        self.dicom_port = dicom_port
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        config: dict[str, Any] = {
            "Name": "test",
            "StorageDirectory": str(folder / "storage"),
            "IndexDirectory": str(folder / "storage"),
            "HttpPort": http_port,
            "DicomPort": dicom_port,
            "DicomAet": self.TITLE,
            "DicomCheckCalledAet": True,
            "DicomAlwaysAllowEcho": False,
            "DicomAlwaysAllowStore": False,
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": True,
            "RegisteredUsers": {self.USER: self.PASSWORD},
            "DicomModalities": {"modality": ["XRAY1", "127.0.0.1", 1], "bridge": ["PRELIM", "127.0.0.1", 1]},
            "StableAge": stable_age,
            "OverwriteInstances": False,
            "Plugins": [str(PLUGINS / "libOrthancDicomWeb.so")],
            "DicomWeb": {"Enable": True, "Root": "/dicom-web/", "Host": f"127.0.0.1:{http_port}"},
            "SaveJobs": False,
            "DatabaseServerIdentifier": "test",
        }
        if bridge is not None:
            config |= {"LuaScripts": [str(HOOK)], "PrelimBridge": {"Url": bridge}}
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "orthanc.json").write_text(json.dumps(config))

    def start(self) -> None:
        """Start, and wait until it answers."""
        # The hook must not go through a proxy.
        environment = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
        with (self._folder / "console.txt").open("ab") as console:
            self._process = subprocess.Popen(
                ["Orthanc", str(self._folder / "orthanc.json")],
                stdout=console,
                stderr=console,
                start_new_session=True,
                env=environment,
            )
        for _ in range(600):
            try:
                self.get("/system")
            except requests.RequestException:
                time.sleep(0.05)
            else:
                return
        raise RuntimeError((self._folder / "console.txt").read_text()[-2000:])

    def stop(self) -> None:
        """Stop as an administrator does."""
        if self._process is not None:
            os.kill(self._process.pid, signal.SIGTERM)
            try:
                self._process.wait(60)
            except subprocess.TimeoutExpired:
                # After outages it waits for its own jobs, now and then for minutes.
                self._process.kill()
                self._process.wait()
            self._process = None

    def get(self, path: str, **parameters: str) -> Any:
        """GET of the REST interface."""
        answer = self._session().get(f"{self.url}{path}", params=parameters, timeout=20)
        answer.raise_for_status()
        return answer.json()

    def post(self, path: str, contents: Any) -> Any:
        """POST to the REST interface."""
        answer = self._session().post(f"{self.url}{path}", json=contents, timeout=20)
        answer.raise_for_status()
        return answer.json()

    def qido(self, path: str, **parameters: str) -> list[dict[str, Any]]:
        """QIDO-RS."""
        answer = self._session().get(
            f"{self.url}/dicom-web{path}", params=parameters, timeout=20, headers={"Accept": "application/dicom+json"}
        )
        answer.raise_for_status()
        return answer.json()

    def documents(self) -> dict[str, str]:
        """SOP Instance UIDs of all structured reports and encapsulated documents -> SOP class."""
        rows = [row for modality in ("SR", "DOC") for row in self.qido("/instances", Modality=modality)]
        return {row["00080018"]["Value"][0]: row["00080016"]["Value"][0] for row in rows}

    def reports(self, study: str | None = None) -> list[str]:
        """SOP Instance UIDs of the Basic Text SRs, of one study or of all."""
        query = {"Modality": "SR"} if study is None else {"Modality": "SR", "StudyInstanceUID": study}
        rows = self.qido("/instances", **query)
        return [row["00080018"]["Value"][0] for row in rows]

    def file(self, sop_instance_uid: str) -> bytes:
        """The stored file."""
        (found,) = self.post("/tools/find", {"Level": "Instance", "Query": {"SOPInstanceUID": sop_instance_uid}})
        return self._session().get(f"{self.url}/instances/{found}/file", timeout=20).content

    def delete(self, sop_instance_uid: str) -> None:
        """Delete an instance."""
        (found,) = self.post("/tools/find", {"Level": "Instance", "Query": {"SOPInstanceUID": sop_instance_uid}})
        self._session().delete(f"{self.url}/instances/{found}", timeout=20).raise_for_status()

    def send(self, *files: Path) -> None:
        """C-STORE files by dcmtk's storescu."""
        command = ["storescu", "-aet", "XRAY1", "-aec", self.TITLE, "127.0.0.1", str(self.dicom_port), *map(str, files)]
        subprocess.run(command, check=True, capture_output=True)

    def upload(self, file: bytes) -> None:
        """Send a file by the REST interface: storescu does not know all SOP classes."""
        self._session().post(f"{self.url}/instances", data=file, timeout=20).raise_for_status()

    def _session(self) -> requests.Session:
        session = requests.Session()
        session.trust_env = False
        session.auth = (self.USER, self.PASSWORD)
        return session

    def __enter__(self) -> "Orthanc":
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()
