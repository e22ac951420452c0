"""A configuration is checked completely before anything starts."""

import datetime
from pathlib import Path
from typing import Any

import pytest

from bridge.configuration.section import ConfigError
from bridge.configuration.settings import Settings, read_settings
from bridge.journal import log

MINIMAL: dict[str, Any] = {"state": "state", "dicomweb": {"url": "http://127.0.0.1:8042/dicom-web"}}

WRONG = {
    "unknown key 'polll'; known: state, enabled": {"polll": {}},
    "test.state is missing": {"state": ...},
    "test.poll.every_s is a str; it must be a float": {"poll": {"every_s": "1"}},
    "test.poll has the unknown key 'seconds'": {"poll": {"seconds": 1}},
    "poll.orthanc is not the address of a server": {"poll": {"orthanc": "127.0.0.1:8042"}},
    "poll.days is 0; allowed: 1 to 365": {"poll": {"days": 0}},
    "retention_days is 2; it must be more than poll.days, 2": {"poll": {"days": 2}, "queue": {"retention_days": 2}},
    "test.enabled is a int; it must be a bool": {"enabled": 1},
    "there is no way in": {"dicomweb": ...},
    "store_scp.peers is empty": {"store_scp": {"peers": []}},
    "store_scp.ae_title is not an AE title": {"store_scp": {"peers": ["A"], "ae_title": "SEVENTEEN-LETTERS"}},
    "poll and hook need dicomweb": {"dicomweb": ..., "store_scp": {"peers": ["A"]}, "hook": {}},
    "there is no way out": {"dicomweb": ..., "store_scp": {"peers": ["A"]}},
    "drafts.host is 0.0.0.0, which is not loopback; set drafts.token_file": {"drafts": {"host": "0.0.0.0"}},  # noqa: S104
    "drafts.max_requests is 0; allowed: 1 to 100": {"drafts": {"max_requests": 0}},
    "test.report.fonts is a str; it must be a list": {"report": {"fonts": "a.ttf"}},
    "test.poll.modalities is a str; it must be a list": {"poll": {"modalities": "CR"}},
    "poll.modalities must have one or more modalities": {"poll": {"modalities": []}},
    "hook.host is 0.0.0.0, which is not loopback; set hook.token_file": {"hook": {"host": "0.0.0.0"}},  # noqa: S104
    "dicomweb has user and token_file": {
        "dicomweb": {"url": "http://x", "user": "a", "password_file": "a", "token_file": "b"}
    },
    "store_scu.port is 99999; allowed: 1 to 65535": {"store_scu": {"host": "x", "port": 99999, "ae_title": "A"}},
    "store_scp.max_image_mb is 0": {"store_scp": {"peers": ["A"], "max_image_mb": 0}},
    "store_scp.keep_hours is -1": {"store_scp": {"peers": ["A"], "keep_hours": -1}},
    "test.state is not the name of a file or a folder": {"state": "a\0b"},
    "server.model is not the name of a model": {"server": {"model": "a/b"}},
    "server.options has the unknown option 'num_bems'; known: banned_phrases": {"server": {"options": {"num_bems": 3}}},
    "server.options has the unknown option 'stream'": {"server": {"options": {"stream": True}}},
    "server.options.prompt is a date": {"server": {"options": {"prompt": datetime.date(2026, 1, 1)}}},
    "server.options.seed is a NoneType": {"server": {"options": {"seed": None}}},
    "queue.stable_s is -5": {"queue": {"stable_s": -5}},
    "queue.first_retry_s is -1": {"queue": {"first_retry_s": -1}},
    "queue.longest_retry_s is 1; allowed: 2.0 to": {"queue": {"longest_retry_s": 1}},
    "queue.give_up_hours is nan": {"queue": {"give_up_hours": float("nan")}},
    "dicomweb.timeout_s is -1": {"dicomweb": {"url": "http://x", "timeout_s": -1}},
    "report.series_description cannot be used": {"report": {"series_description": "a\\b"}},
    "report.manufacturer cannot be used": {"report": {"manufacturer": "漢" * 30}},
    "fhir.url is not the address of a server": {"fhir": {"url": "http://"}},
    "signed has no way in: give port": {"signed": {}},
    "signed.host is 0.0.0.0, which is not loopback; list signed.senders": {"signed": {"port": 1, "host": "0.0.0.0"}},  # noqa: S104
    "signed.senders has an entry that is not an IP address": {"signed": {"port": 1, "senders": ["ris"]}},
    "signed.accession must have one or more fields of OBR": {"signed": {"port": 1, "accession": ["PID-3"]}},
    "signed.port is 70000": {"signed": {"port": 70000}},
    "signed.keep_days is 7; allowed: 14.0 to 3650": {"signed": {"port": 1, "keep_days": 7}},
    "signed needs drafts to compare with": {"dicomweb": ..., "drafts": {}, "signed": {"port": 1}},
    "test.server.images is a bool": {"server": {"images": True}},
    "test.store_scp.tls.key is missing": {"store_scp": {"peers": ["A"], "tls": {"certificate": "a", "ca": "b"}}},
}


@pytest.mark.parametrize("message", WRONG)
def test_a_mistake_is_named(message: str) -> None:
    """The message has the key, what was found and what is allowed."""
    given = {name: value for name, value in (MINIMAL | WRONG[message]).items() if value is not ...}
    with pytest.raises(ConfigError) as error:
        Settings.read(given, "test", Path())
    assert message in str(error.value)


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    """The bridge can be started from anywhere."""
    path = tmp_path / "bridge.yaml"
    path.write_text("state: here\ndicomweb: {url: 'http://pacs/dicom-web', timeout_s: 5}\n")
    settings = read_settings(path)

    assert settings.state == tmp_path / "here"
    assert settings.dicomweb is not None
    assert settings.dicomweb.timeout_s == 5


@pytest.mark.parametrize("url", ["", "pacs:8042/dicom-web", "ftp://x", "http://x:99999", "http://[::1"])
def test_an_address_that_is_not_one_is_named(url: str) -> None:
    """Not after the first study, by an exception of the HTTP library."""
    with pytest.raises(ConfigError, match=r"dicomweb\.url is not the address of a server"):
        Settings.read(MINIMAL | {"dicomweb": {"url": url}}, "test", Path())


def test_a_key_given_twice_is_named(tmp_path: Path) -> None:
    """YAML itself takes the last of two values."""
    path = tmp_path / "bridge.yaml"
    path.write_text("state: here\ndicomweb: {url: 'http://x'}\nstate: there\n")
    with pytest.raises(ConfigError, match="the key 'state' twice"):
        read_settings(path)


@pytest.mark.parametrize("contents", [None, "[", "- 1", "state: {a: b}"])
def test_an_unreadable_file_is_named(tmp_path: Path, contents: str | None) -> None:
    """A missing file, no YAML, and YAML of another shape end in ConfigError."""
    path = tmp_path / "bridge.yaml"
    if contents is not None:
        path.write_text(contents)
    with pytest.raises(ConfigError):
        read_settings(path)


def test_the_example_of_the_documentation_is_valid(tmp_path: Path) -> None:
    """The configuration in docs/pacs.md can be used as it is."""
    page = (Path(__file__).resolve().parents[3] / "docs" / "pacs.md").read_text(encoding="utf-8")
    examples = [part.partition("```")[0] for part in page.split("```yaml\n")[1:]]
    assert len(examples) >= 2
    for number, example in enumerate(examples):
        path = tmp_path / f"{number}.yaml"
        path.write_text(example)
        read_settings(path)


def test_a_log_that_cannot_be_written_does_not_stop_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Standard error on a full disk, or a pipe whose reader has gone."""

    class Full:
        def write(self, _: str) -> None:
            raise OSError(28, "No space left on device")

        flush = write

    monkeypatch.setattr("sys.stderr", Full())
    log("test", count=1)


@pytest.mark.parametrize("fields", [{"study": "MUELLER^ANNA"}, {"reason": "a b"}, {"patient": "x"}])
def test_the_log_takes_no_other_fields_and_no_free_text(fields: dict[str, str]) -> None:
    """What could carry an identity is a fault of the caller."""
    with pytest.raises(ValueError, match="may not be logged"):
        log("test", **fields)
