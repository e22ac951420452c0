"""Bundles: installed without an index, upgraded, rolled back; what is damaged or forged is refused."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from deploy.bundle import copy_archives, write_sums
from deploy.fill_environment import InstallError
from deploy.install import install, roll_back
from prelim.archive.signature import Signer, Verifier
from tests.deploy.conftest import FakeBundle
from tests.export.test_signature import write_keys

MakeBundle = Callable[[str], FakeBundle]


def current(folder: Path) -> tuple[str, str]:
    """Version of the package and text of the archive that the current release has."""
    release = folder / "current"
    python = release / ".venv" / "bin" / "python"
    done = subprocess.run(
        [python, "-c", "import tiny; print(tiny.VERSION)"], capture_output=True, text=True, check=True
    )
    return done.stdout.strip(), (release / "model_store" / "model.mar").read_text(encoding="utf-8")


def forge_wheel(bundle: Path) -> None:
    """Change a wheel and give it a right sum; its lock still has the hash of the wheel that was built."""
    (wheel,) = (bundle / "wheels").glob("*.whl")
    wheel.write_bytes(wheel.read_bytes() + b"\0")
    write_sums(bundle)


def forge_archive(bundle: Path) -> None:
    """Bring an archive that the launcher refuses."""
    (bundle / "archives" / "model.mar").write_text("forged", encoding="utf-8")
    write_sums(bundle)


def forget_wheel(bundle: Path) -> None:
    """Leave a package out, in the sums too."""
    (wheel,) = (bundle / "wheels").glob("*.whl")
    wheel.unlink()
    write_sums(bundle)


def test_install_upgrade_roll_back(make_bundle: MakeBundle, tmp_path: Path) -> None:
    """A second bundle replaces the first with all it has; going back, and forward again, changes both together.

    The same bundle again keeps the way back. What an interrupted installation has left is removed.
    """
    folder = tmp_path / "opt"
    first, second = make_bundle("1.0"), make_bundle("2.0")

    installed = first.run(folder)
    assert installed.returncode == 0, installed.stderr
    assert current(folder) == ("1.0", "1.0")
    assert first.run("--rollback", folder).stderr == f"{folder} has no previous release to go back to\n"
    assert first.run("--check").returncode == 0, "an installation leaves nothing in the bundle"

    (folder / "releases" / "interrupted" / "model_store").mkdir(parents=True)
    for _ in range(2):
        install(second.folder, folder)
        assert current(folder) == ("2.0", "2.0")
        assert sorted(path.name[:3] for path in (folder / "releases").iterdir()) == ["1.0", "2.0"]
    for version in ("1.0", "2.0"):
        assert roll_back(folder).startswith(version)
        assert current(folder) == (version, version)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (forge_wheel, "DO NOT MATCH THE HASHES"),
        (forge_archive, "the archives of the bundle are refused:\nmodel.mar: refused"),
        # No index is asked for it.
        (forget_wheel, r"No matching distribution found for tiny==2\.0"),
    ],
)
def test_bundle_that_fails_halfway_changes_nothing(
    make_bundle: MakeBundle, tmp_path: Path, spoil: Callable[[Path], None], reason: str
) -> None:
    """Sums that fit are not enough: pip knows hashes, the launcher knows archives. The release before stays."""
    folder = tmp_path / "opt"
    install(make_bundle("1.0").folder, folder)
    bundle = make_bundle("2.0").folder
    spoil(bundle)

    with pytest.raises(InstallError, match=reason):
        install(bundle, folder)

    assert current(folder) == ("1.0", "1.0")
    assert len(list((folder / "releases").iterdir())) == 1


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda bundle: next((bundle / "wheels").glob("*.whl")).write_bytes(b""), "py3-none-any.whl is damaged"),
        (lambda bundle: (bundle / "archives" / "model.mar").unlink(), "archives/model.mar is missing"),
        (lambda bundle: (bundle / "tree" / "sitecustomize.py").touch(), "tree/sitecustomize.py is not listed in"),
        (lambda bundle: (bundle / "SHA256SUMS").write_text("x"), "SHA256SUMS cannot be read"),
        (lambda bundle: swap_for_link(bundle / "archives" / "model.mar"), "archives/model.mar is a link"),
    ],
)
def test_damaged_bundle_is_refused(
    make_bundle: MakeBundle, tmp_path: Path, spoil: Callable[[Path], object], reason: str
) -> None:
    """Whatever differs from the sums is named, before anything is installed."""
    bundle = make_bundle("1.0").folder
    spoil(bundle)

    with pytest.raises(InstallError, match=reason):
        install(bundle, tmp_path / "opt")

    assert not (tmp_path / "opt").exists()


def test_signature_comes_with_its_archive(tiny_mar: Path, tmp_path: Path) -> None:
    """A bundle has the signatures of those archives that have one."""
    private, public = write_keys(tmp_path / "keys")
    signed, plain = (Path(shutil.copy(tiny_mar, tmp_path / name)) for name in ("signed.mar", "plain.mar"))
    Signer(private).sign(signed)

    copy_archives([signed, plain], tmp_path / "archives")

    names = sorted(path.name for path in (tmp_path / "archives").iterdir())
    assert names == ["plain.mar", "signed.mar", "signed.mar.sig"]
    Verifier(public).check(tmp_path / "archives" / "signed.mar")


def test_relative_folder_is_refused(make_bundle: MakeBundle) -> None:
    """The script changes into the bundle, so a relative folder would mean another one."""
    refused = make_bundle("1.0").run("opt")

    assert refused.returncode == 1
    assert "the folder is opt; allowed: an absolute path, such as /opt/prelim" in refused.stderr


def swap_for_link(path: Path) -> None:
    """Replace a file by a link to another with the same bytes."""
    moved = path.parent.parent.parent / "elsewhere"
    path.rename(moved)
    path.symlink_to(moved)
