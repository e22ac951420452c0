"""With a key in PRELIM_PUBLIC_KEY the launcher serves only what it has signed."""

import shutil
import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from launcher.archives import PUBLIC_KEY, check_store
from launcher.environment import ROOT
from launcher.errors import LaunchError
from launcher.install import read_lock
from launcher.process import find_server
from prelim.archive.signature import Signer, signature_of
from tests.export.test_signature import write_keys
from tests.launcher.conftest import Clone


def test_every_archive_of_a_store_must_be_signed(
    tiny_mar: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unsigned, changed and signed by another are three lines; --other-code does not replace a signature."""
    private, public = write_keys(tmp_path / "keys")
    monkeypatch.setenv(PUBLIC_KEY, str(public))
    store = tmp_path / "store"
    store.mkdir()
    for name in ("good.mar", "unsigned.mar", "changed.mar", "strange.mar"):
        Signer(private).sign(Path(shutil.copy(tiny_mar, store / name)))
    assert all(archive.signed for archive in check_store(store))

    signature_of(store / "unsigned.mar").unlink()
    (store / "changed.mar").write_bytes((store / "good.mar").read_bytes()[:-1] + b"\1")
    Signer(write_keys(tmp_path / "other")[0]).sign(store / "strange.mar")
    for other_code in (False, True):
        with pytest.raises(LaunchError) as raised:
            check_store(store, other_code=other_code)
        lines = str(raised.value).splitlines()
        assert [Path(line.split(" ")[0]).name for line in lines] == ["changed.mar", "strange.mar", "unsigned.mar"]
        assert all("--sign KEY" in line for line in lines)

    monkeypatch.delenv(PUBLIC_KEY)
    (store / "changed.mar").unlink()
    assert not any(archive.signed for archive in check_store(store))


@pytest.mark.parametrize(
    ("value", "message"),
    [("", "is empty; set it"), ("missing.pub", "cannot be read"), ("LICENSE", "is not the public")],
)
def test_key_that_is_none_stops_the_start(
    tiny_mar: Path, monkeypatch: pytest.MonkeyPatch, value: str, message: str
) -> None:
    """A setting that was meant to protect is never ignored."""
    monkeypatch.setenv(PUBLIC_KEY, value)
    with pytest.raises(LaunchError, match=f"{PUBLIC_KEY}.*{message}"):
        check_store(tiny_mar.parent)


def test_launcher_refuses_and_accepts(clone: Clone, tmp_path: Path) -> None:
    """`start` with an unsigned archive names it and starts nothing; once signed, `check` says so."""
    private, public = write_keys(tmp_path / "keys")
    clone.environment[PUBLIC_KEY] = str(public)

    refused = clone.launch("start")
    assert refused.returncode == 1
    assert f"{clone.archive.name} has no signature ({clone.archive.name}.sig)" in refused.stderr
    assert find_server(clone.temporary) is None
    assert not clone.key_file.exists()

    Signer(private).sign(clone.archive)
    accepted = clone.launch("check")
    assert accepted.returncode == 0, accepted.stderr
    assert "signature good" in accepted.stdout


def test_image_has_what_checks_signatures(tiny_mar: Path, tmp_path: Path) -> None:
    """The packages that the image's lock leaves out are not imported."""
    locked = {name for target in ("gpu", "cpu") for name in read_lock(ROOT / "deploy" / "image" / f"{target}.lock")}
    absent = read_lock(ROOT / "requirements.lock").keys() - locked
    modules = [name for name, packages in packages_distributions().items() if {p.lower() for p in packages} <= absent]
    assert {"click", "rich"} <= set(modules)
    private, public = write_keys(tmp_path / "keys")
    path = Path(shutil.copy(tiny_mar, tmp_path))
    Signer(private).sign(path)
    code = (
        f"import sys; from pathlib import Path; sys.modules.update(dict.fromkeys({modules!r}))\n"
        f"from prelim.archive.signature import Verifier; Verifier(Path({str(public)!r})).check(Path({str(path)!r}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
