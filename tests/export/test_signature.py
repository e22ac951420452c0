"""A signed archive is accepted only with every bit as it was signed, and only from the key that is trusted."""

import json
import random
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from export import package
from prelim.archive.mar import check_mar
from prelim.archive.signature import Signer, Verifier, signature_of
from prelim.errors import ArchiveError
from tests.export.test_archive_integrity import flip, pack

CURVES = {"P-256": ec.SECP256R1, "P-384": ec.SECP384R1, "P-521": ec.SECP521R1}
PLAIN = serialization.NoEncryption()


def write_keys(
    folder: Path,
    key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | None = None,
    encryption: serialization.KeySerializationEncryption = PLAIN,
) -> tuple[Path, Path]:
    """Write a private and a public key in PEM; a new one of P-256 by default."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    folder.mkdir(exist_ok=True)
    private, public = folder / "archives.pem", folder / "archives.pub"
    pem = serialization.Encoding.PEM
    private.write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, encryption))
    public.write_bytes(key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo))
    return private, public


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The keys of whom the site trusts."""
    return write_keys(tmp_path_factory.mktemp("keys"))


@pytest.fixture(scope="module")
def signed(tiny_mar: Path, keys: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A signed archive as `make archive` builds it, without most of the encoder's weights. To be read only."""
    folder = tmp_path_factory.mktemp("signed")
    with zipfile.ZipFile(tiny_mar) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    files["vision.onnx.data"] = files["vision.onnx.data"][:1000]
    path = pack(files, folder / "small.mar")
    Signer(keys[0]).sign(path)
    return path


def changed(signed: Path, folder: Path, contents: bytes) -> Path:
    """A file with other contents and the signature of the signed archive."""
    path = folder / signed.name
    path.write_bytes(contents)
    shutil.copy(signature_of(signed), folder)
    return path


@pytest.mark.parametrize("curve", CURVES.values(), ids=list(CURVES))
def test_signed_archive_is_accepted(tiny_mar: Path, tmp_path: Path, curve: type[ec.EllipticCurve]) -> None:
    """With a key of each curve, also by the tool of the format's authors, which needs nothing of ours."""
    private, public = write_keys(tmp_path, ec.generate_private_key(curve()))
    path = Path(shutil.copy(tiny_mar, tmp_path))
    signature = Signer(private).sign(path)

    assert signature == tmp_path / "tiny.mar.sig"
    Verifier(public).check(path)
    if curve is ec.SECP256R1:
        command = [sys.executable, "-m", "model_signing", "verify", "key", str(path), "--signature", str(signature)]
        done = subprocess.run([*command, "--public_key", str(public)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


def test_one_bit_in_any_file_is_refused(signed: Path, keys: tuple[Path, Path], tmp_path: Path) -> None:
    """One flipped bit in the contents of any member: code, weights, networks, settings, manifest."""
    contents = signed.read_bytes()
    verifier = Verifier(keys[1])
    verifier.check(signed)
    with zipfile.ZipFile(signed) as archive:
        members = archive.infolist()
    names = {member.filename for member in members}
    assert {"report_handler.py", "handlers/response.py", "prelim/report_generator.py"} < names
    assert {"decoder.safetensors", "vision.onnx", "model.yaml", "manifest.json", "MAR-INF/MANIFEST.json"} < names
    for number, member in enumerate(members):
        start = member.header_offset + 30 + len(member.filename)
        at = random.Random(number).randrange(8 * start, 8 * (start + max(member.compress_size, 1)))
        with pytest.raises(ArchiveError, match=r"small\.mar has been changed since it was signed"):
            verifier.check(changed(signed, tmp_path, flip(contents, at)))


def test_bytes_around_the_files_are_signed_too(signed: Path, keys: tuple[Path, Path], tmp_path: Path) -> None:
    """Headers, directory, length."""
    contents = signed.read_bytes()
    ends = [0, 8 * len(contents) - 1, *random.Random(0).sample(range(8 * len(contents)), 20)]
    for other in (*(flip(contents, at) for at in ends), contents + b"\0", contents[:-1], b""):
        with pytest.raises(ArchiveError, match="changed since it was signed"):
            Verifier(keys[1]).check(changed(signed, tmp_path, other))


@pytest.mark.parametrize("name", ["handlers/response.py", "decoder.safetensors", "model.yaml"])
def test_change_with_a_manifest_that_fits_is_refused(
    signed: Path, keys: tuple[Path, Path], tmp_path: Path, name: str
) -> None:
    """Whoever builds the archive again after a change makes its manifest right, but cannot sign it."""
    from prelim.archive.manifest import write_manifest
    from tests.export.test_archive_integrity import write_folder

    with zipfile.ZipFile(signed) as archive:
        files = {member: archive.read(member) for member in archive.namelist()}
    folder = write_folder(files | {name: files[name] + b"\n"}, tmp_path / "folder")
    files = {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    files["manifest.json"] = write_manifest(folder).contents
    path = pack(files, tmp_path / "small.mar")
    shutil.copy(signature_of(signed), tmp_path)

    assert check_mar(path).files
    with pytest.raises(ArchiveError, match="changed since it was signed"):
        Verifier(keys[1]).check(path)


def test_other_key_is_refused(signed: Path, keys: tuple[Path, Path], tmp_path: Path) -> None:
    """Another key's signature, also if it says that it is by the trusted key; and a trusted one of another archive."""
    private, public = write_keys(tmp_path / "other")
    path = Path(shutil.copy(signed, tmp_path))
    trusted = json.loads(signature_of(signed).read_text())
    Signer(private).sign(path)
    with pytest.raises(ArchiveError, match="or by another key: get both files again, or sign it"):
        Verifier(keys[1]).check(path)
    Verifier(public).check(path)

    pretended = json.loads(signature_of(path).read_text())
    pretended["verificationMaterial"] = trusted["verificationMaterial"]
    signature_of(path).write_text(json.dumps(pretended))
    with pytest.raises(ArchiveError, match="by another key"):
        Verifier(keys[1]).check(path)

    other = tmp_path / "other.mar"
    other.write_bytes(flip(signed.read_bytes(), 0))
    Signer(keys[0]).sign(other)
    signature_of(other).replace(signature_of(path))
    with pytest.raises(ArchiveError, match="changed since it was signed"):
        Verifier(keys[1]).check(path)


def test_missing_signature_is_named(tiny_mar: Path, keys: tuple[Path, Path]) -> None:
    """With the way out."""
    with pytest.raises(ArchiveError, match=r"tiny\.mar has no signature \(tiny\.mar\.sig\).*package MODEL --sign KEY"):
        Verifier(keys[1]).check(tiny_mar)


@pytest.mark.parametrize("part", ["dsseEnvelope", "verificationMaterial", "mediaType", "payload", "signatures", "all"])
def test_damaged_signature_is_refused(signed: Path, keys: tuple[Path, Path], tmp_path: Path, part: str) -> None:
    """Whatever is missing, empty or of another type; an ArchiveError, never another exception."""
    path = Path(shutil.copy(signed, tmp_path))
    good = signature_of(signed).read_text()
    texts = ["", "[]", "null", "{", "[" * 100_000, "\0", good[:-20]] if part == "all" else []
    for value in (None, "", [], {}, [{}], 1) if part != "all" else ():
        bundle = json.loads(good)
        section = bundle["dsseEnvelope"] if part in ("payload", "signatures") else bundle
        section[part] = value
        # An unknown media type is the only thing that the library accepts.
        texts += [json.dumps(bundle)] if part != "mediaType" else []
        del section[part]
        texts.append(json.dumps(bundle))
    for text in texts:
        signature_of(path).write_text(text)
        with pytest.raises(ArchiveError, match=r"small\.mar\.sig is damaged"):
            Verifier(keys[1]).check(path)


def test_wrong_keys_are_named(keys: tuple[Path, Path], tmp_path: Path) -> None:
    """Another curve, another kind, a password, the wrong half, a missing file."""
    other = write_keys(tmp_path / "other", ec.generate_private_key(ec.SECP256K1()))
    kind = write_keys(tmp_path / "rsa", rsa.generate_private_key(65537, 2048))
    password = write_keys(tmp_path / "password", encryption=serialization.BestAvailableEncryption(b"x"))
    for private in (other[0], kind[0], password[0], keys[1]):
        with pytest.raises(ArchiveError, match=r"is not an elliptic curve key in PEM .* without a password; `openssl"):
            Signer(private)
    for public in (other[1], kind[1], keys[0]):
        with pytest.raises(ArchiveError, match="is not the public part of an elliptic curve key"):
            Verifier(public)
    for make in (Signer, Verifier):
        with pytest.raises(ArchiveError, match="cannot be read: No such file"):
            make(tmp_path / "missing")


def test_package_signs(
    tiny_mar: Path, keys: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`--sign KEY` writes the signature next to the archive; a bad key is refused before anything is built."""
    built = Path(shutil.copy(tiny_mar, tmp_path))
    monkeypatch.setattr(package, "write_archive", lambda *_, **__: built)
    monkeypatch.setattr(sys, "argv", ["package", "models/tiny", "--sign", str(keys[0])])
    package.main()
    Verifier(keys[1]).check(built)

    monkeypatch.setattr(package, "write_archive", lambda *_, **__: pytest.fail("built"))
    monkeypatch.setattr(sys, "argv", ["package", "models/tiny", "--sign", str(keys[1])])
    with pytest.raises(SystemExit, match="is not an elliptic curve key"):
        package.main()
