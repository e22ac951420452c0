"""BERT's tokenizer in the `tokenizers` library equals that of `transformers`."""

import csv
import random
from pathlib import Path

import pytest
from transformers import BertTokenizer

from export.tokenizers.read import read_tokenizer
from prelim.errors import ArchiveError

ODD = (
    *("", "   ", "don't can't we've I'm it's they're do n't ' quoted ' 's", "[SEP] inside [CLS] text [MASK]", "[sep]"),
    *("naïve café Ångström İstanbul ẞ", "e\u0301 combining", "x" * 120, "한국어 中文字 \uf900", "\u2028line\x00\ufffd"),
    *("tab\tnl\ncr\r", "3.5 x 2 cm, no. ?! ...", "emoji 😀", "nbsp\u00a0\u200b", "##ing ##s at start", "a ' b"),
)


def folders(shared: Path, folder: Path) -> list[Path]:
    """Folders with only vocab.txt and with only tokenizer.json."""
    published = shared / "data" / "tokenizers" / "bert-base-uncased"
    found = []
    for name in ("vocab.txt", "tokenizer.json"):
        (folder / name.partition(".")[0]).mkdir()
        found.append(folder / name.partition(".")[0])
        (found[-1] / name).write_bytes((published / name).read_bytes())
    return found


def test_ids_and_texts_of_shared_reports_are_those_of_transformers(shared: Path, tmp_path: Path) -> None:
    """Real reports, unusual strings and random ids give the same ids and the same cleaned-up text."""
    theirs = BertTokenizer.from_pretrained(shared / "data" / "tokenizers" / "bert-base-uncased")
    with (shared / "data" / "iu_xray" / "indiana_reports.csv").open(encoding="utf-8") as file:
        texts = [f"{row['findings']} {row['impression']}" for row in csv.DictReader(file)][::20]
    texts += ODD
    numbers = random.Random(0)
    written = [[numbers.randrange(30522) for _ in range(40)] for _ in range(50)]
    written += [[numbers.choice([1012, 1005, 1055, 1056, 2310, 1010, 999, 102]) for _ in range(9)] for _ in range(50)]

    for folder in folders(shared, tmp_path):
        ours = read_tokenizer("bert-base-uncased", folder)
        ids = [theirs(text)["input_ids"] for text in texts]
        assert [ours.encode(text).ids for text in texts] == ids
        for sequence in (*ids, *written):
            expected = theirs.decode(sequence, skip_special_tokens=True, clean_up_tokenization_spaces=True)
            assert ours.decode(sequence, skip_special_tokens=True) == expected


def test_vocabulary_without_special_tokens_is_refused(tmp_path: Path) -> None:
    """A vocabulary that is not BERT's is an error with the missing tokens."""
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\nheart\n", encoding="utf-8")

    with pytest.raises(ArchiveError, match=r"lacks \[CLS\], \[SEP\], \[MASK\]"):
        read_tokenizer("bert-base-uncased", tmp_path)
