"""Files that are not checkpoints are refused for what they are."""

import bz2
import gzip
import io
import lzma
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from export.checkpoints.checkpoint import read_checkpoint
from prelim.errors import ArchiveError


def weights() -> bytes:
    """A checkpoint."""
    file = io.BytesIO()
    torch.save({"a": torch.ones(4)}, file)
    return file.getvalue()


def zipped(*names: str) -> bytes:
    """A zip file with these entries."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name in names:
            archive.writestr(name, weights())
    return file.getvalue()


def arrays() -> bytes:
    """An archive of numpy.savez."""
    file = io.BytesIO()
    np.savez(file, a=np.ones(4))
    return file.getvalue()


KINDS = {
    "gzip": (gzip.compress(weights()), "compressed with gzip; unpack it"),
    "bzip2": (bz2.compress(weights()), "compressed with bzip2; unpack it"),
    "xz": (lzma.compress(weights()), "compressed with xz; unpack it"),
    "HDF5": (b"\x89HDF\r\n\x1a\n" + bytes(100), "an HDF5 file"),
    "Xet": (b"# xet version 0\n[abc]\n", "a pointer of Xet"),
    "annex": (b"/annex/objects/SHA256E-s10--0.pth\n", "a pointer of git-annex"),
    "page": ("\ufeff  <!DOCTYPE html><html>".encode(), "a web page"),
    "page in UTF-16": ("<html>Sign in</html>".encode("utf-16"), "a web page"),
    "error": (b"Repository not found", "a text file, not a checkpoint"),
    "long error": ("Dépôt introuvable. ".encode() * 200, "a text file, not a checkpoint"),
    "JSON": (b'{"error":"Access to model is restricted"}', "a JSON file, not a checkpoint"),
    "arrays": (arrays(), "an archive of NumPy arrays"),
    "zip": (zipped("best.pth"), "a zip archive of 1 other files"),
    "Keras": (zipped("config.json", "metadata.json", "model.weights.h5"), "a Keras model; give it the suffix .keras"),
    "served": (zipped("MAR-INF/MANIFEST.json", "model.yaml"), "a model archive of TorchServe"),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["a.pth", "a.safetensors"])
def test_what_a_file_is_instead_of_a_checkpoint(kind: str, name: str, tmp_path: Path) -> None:
    """The message names it, whatever the suffix."""
    contents, message = KINDS[kind]
    (tmp_path / name).write_bytes(contents)

    with pytest.raises(ArchiveError, match=f"{name} is {message}"):
        read_checkpoint(tmp_path / name)


@pytest.mark.parametrize("name", ["a.keras", "a.gguf"])
def test_text_with_the_suffix_of_another_format(name: str, tmp_path: Path) -> None:
    """A server's message may have any name."""
    (tmp_path / name).write_bytes(b"Access denied")

    with pytest.raises(ArchiveError, match="a text file, not a checkpoint"):
        read_checkpoint(tmp_path / name)
