"""Published tokenizers: added tokens are kept, and what is not a tokenizer or does not fit the decoder is refused."""

import json
from pathlib import Path

import pytest
import torch

from export.import_checkpoint import import_checkpoint
from export.tokenizers.read import read_tokenizer
from prelim.archive.archive import TOKENIZER
from prelim.errors import ArchiveError
from tests.export.test_faulty_checkpoints import POINTER
from tests.export.test_import_checkpoint import published
from tests.export.test_ordinary_checkpoints import SYSTEM, State

__all__ = ["published"]


def write_words(folder: Path, added: int = 0) -> Path:
    """BERT's tokenizer with 15 made-up words, and added ones in added_tokens.json."""
    folder.mkdir()
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmno"]
    (folder / "vocab.txt").write_text("\n".join(words), encoding="utf-8")
    if added:
        listed = {f"<word{i}>": len(words) + i for i in range(added)}
        (folder / "added_tokens.json").write_text(json.dumps(listed), encoding="utf-8")
    return folder


def test_added_tokens_are_kept(tmp_path: Path) -> None:
    """Words of added_tokens.json and of tokenizer_config.json have their ids; contradicting ids are refused."""
    folder = write_words(tmp_path / "words", added=2)
    listed = {"22": {"content": "<finding>", "special": True}, "2": {"content": "[CLS]", "special": True}}
    (folder / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": listed}), encoding="utf-8")

    tokenizer = read_tokenizer("bert-base-uncased", folder)

    assert tokenizer.encode("a<word1>b<finding>", add_special_tokens=False).ids == [5, 21, 6, 22]
    (folder / "tokenizer_config.json").unlink()
    (folder / "added_tokens.json").write_text(json.dumps({"<word0>": 30}), encoding="utf-8")
    with pytest.raises(ArchiveError, match="added token '<word0>' has the id 30"):
        read_tokenizer("bert-base-uncased", folder)


@pytest.mark.parametrize(
    ("kind", "name", "text", "message"),
    [
        ("llama2", "tokenizer.model", POINTER, "pointer of Git LFS"),
        ("llama2", "tokenizer.model", "not a model of SentencePiece", "cannot be read as a tokenizer"),
        ("bert-base-uncased", "vocab.txt", "", "is empty"),
        ("bert-base-uncased", "vocab.txt", "a\nb\nand more words", "lacks"),
        ("biogpt", "vocab.json", "{not JSON}", "cannot be read as a tokenizer"),
    ],
)
def test_faulty_tokenizers_are_refused(kind: str, name: str, text: str, message: str, tmp_path: Path) -> None:
    """A file that is not a tokenizer is named with the reason."""
    (tmp_path / name).write_text(text, encoding="utf-8")
    (tmp_path / "merges.txt").write_text("a b 1\n", encoding="utf-8")

    with pytest.raises(ArchiveError, match=message):
        read_tokenizer(kind, tmp_path)


@pytest.mark.parametrize(
    ("added", "message"), [(0, None), (3, "the tokenizer has 23 tokens, the decoder 20"), (-1, None)]
)
def test_tokenizer_must_fit_the_decoder(
    added: int, message: str | None, published: State, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A tokenizer with more tokens than the decoder is refused; rows without a token are assumed to be padding."""
    folder = write_words(tmp_path / "words", added=max(added, 0))
    if added < 0:
        text = (folder / "vocab.txt").read_text(encoding="utf-8")
        (folder / "vocab.txt").write_text(text.removesuffix("\no"), encoding="utf-8")
    torch.save(published, tmp_path / "a.pth")
    arguments = (SYSTEM, [tmp_path / "a.pth"], folder, tmp_path / "model", "small")
    if message:
        with pytest.raises(ArchiveError, match=message):
            import_checkpoint(*arguments)
        assert not (tmp_path / "model").exists()
        return

    import_checkpoint(*arguments)

    assert ("assumed: the decoder's last 1 rows are padding" in capsys.readouterr().out) == (added < 0)
    assert (tmp_path / "model" / TOKENIZER).is_file()
