"""Draft tokens change how many steps a report takes, and nothing else."""

import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from prelim.decoders.decoder import IMAGE
from prelim.decoders.packed import pack
from prelim.errors import ArchiveError
from prelim.generation import drafts as module
from prelim.generation.constraint import Constraints
from prelim.generation.decode_request import DecodeRequest
from prelim.generation.drafts import MAX_BYTES, MAX_DRAFTS, Drafts, count_drafts, read_drafts
from prelim.generation.engine import Engine
from prelim.generation.options import GenerationOptions
from prelim.kernels import unavailable
from tests.batches import Found, alone, decode, draw_options
from tests.model_src.generation.reference import BOS, EOS, PAD, tiny_decoder, tiny_image
from tests.model_src.generation.test_banned_phrases import WORDS
from tests.model_src.generation.test_batch_invariance import EOS as END
from tests.model_src.generation.test_batch_invariance import KINDS, TOKENS, random_decoder

compiled = pytest.mark.skipif(unavailable() is not None, reason=str(unavailable()))


def known(found: Found, share: float, draw: random.Random) -> Drafts:
    """The table of such a share of what was written, whose other tokens are those of other texts."""
    texts = [one.token_ids for written, _ in found.values() if isinstance(written, tuple) for one in written]
    every = [token for text in texts for token in text]
    mixed = [[token if draw.random() < share else draw.choice(every) for token in text] for text in texts]
    return count_drafts([*mixed, *mixed])


@compiled
@pytest.mark.parametrize(
    ("kind", "precision"),
    [
        *(("biogpt", "fp32"), ("biogpt", "int8_dynamic"), ("llama", "bf16"), ("phi", "int4_dynamic")),
        *(("gemma3", "fp32"), ("cross_attention", "fp32"), ("keras", "fp32")),
    ],
)
def test_no_draft_changes_a_bit(kind: str, precision: str) -> None:
    """Tokens, log-probabilities and logits of random requests, alone and among others with beams, drafts or none."""
    decoder, draw = random_decoder(kind, precision, shared=False), random.Random(f"{kind} {precision}")
    torch.manual_seed(3)
    ids = (1,) if KINDS[kind]["kind"] == "cross_attention" else (1, IMAGE, 5)
    width = KINDS[kind]["width"]
    requests = {f"{i}": DecodeRequest(torch.randn(TOKENS, width), ids, draw_options(draw)) for i in range(20)}
    plain = alone(decoder, requests, END)

    for share in (1.0, 0.8):
        table = known(plain, share, draw)
        assert alone(decoder, requests, END, drafts=table) == plain
        assert decode(decoder, requests, draw.randint(2, 6), END, draw=draw, drafts=table) == plain


@compiled
def test_with_grammars_and_bans() -> None:
    """They see every token once, in its order, whether it was proposed or not."""
    decoder, draw = pack(tiny_decoder()), random.Random(5)
    settings = {
        "constraints": Constraints(WORDS, [EOS]),
        "pad_token_id": PAD,
        "detokenize": lambda ids: WORDS.decode(list(ids)),
    }
    requests = {}
    for i in range(16):
        options = GenerationOptions(
            do_sample=(sample := draw.random() < 0.5),
            seed=i if sample else None,
            max_new_tokens=draw.randint(1, 16),
            banned_phrases=draw.choice(((), ("unchanged", "is"))),
            grammar=draw.choice(("", "[a-z0-9]+( [a-z0-9]+)*[.]")),
            no_repeat_ngram_size=draw.choice((0, 2)),
            repetition_penalty=draw.choice((1.0, 1.3)),
        )
        requests[f"{i}"] = DecodeRequest(tiny_image(i), (BOS,), options)
    plain = alone(decoder, requests, EOS, **settings)

    for share in (1.0, 0.7):
        table = known(plain, share, draw)
        assert decode(decoder, requests, 1, EOS, drafts=table, **settings) == plain
        assert decode(decoder, requests, 4, EOS, drafts=table, **settings) == plain


class Counting:
    """A decoder that counts its steps."""

    def __init__(self, decoder: Any) -> None:
        self._decoder, self.steps = decoder, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._decoder, name)

    def step(self, *arguments: Any) -> Any:
        """One more."""
        self.steps += 1
        return self._decoder.step(*arguments)


@compiled
@pytest.mark.parametrize("length", [1, 2, 5, 6, 7, 30])
def test_known_texts_take_fewer_steps(length: int) -> None:
    """A step writes a token, and as many as are proposed; never more than the options allow."""
    decoder = Counting(pack(tiny_decoder()))
    options = GenerationOptions(min_new_tokens=length, max_new_tokens=length, no_repeat_ngram_size=4)
    request = {"a": DecodeRequest(tiny_image(0), (BOS,), options)}
    plain = decode(decoder, request, 1, EOS)
    assert decoder.steps == length - 1
    decoder.steps = 0

    assert decode(decoder, request, 1, EOS, drafts=known(plain, 1.0, random.Random(0))) == plain
    assert decoder.steps == -(-(length - 1) // (MAX_DRAFTS + 1))


@compiled
def test_counts_of_drafts() -> None:
    """All of known texts are accepted."""
    options = GenerationOptions(min_new_tokens=21, max_new_tokens=21, no_repeat_ngram_size=4)
    decoder, request = pack(tiny_decoder()), {"a": DecodeRequest(tiny_image(0), (BOS,), options)}
    table = known(decode(decoder, request, 1, EOS), 1.0, random.Random(0))
    engine: Engine[DecodeRequest] = Engine(
        decoder, slots=1, eos_token_ids=[EOS], pad_token_id=PAD, detokenize=str, drafts=table
    )

    engine.decode(request)

    assert engine.take_draft_counts() == (16, 16)
    assert engine.take_draft_counts() == (0, 0)


REPORTS = ([5, 6, 7, 8, 2], [5, 6, 7, 9, 2], [5, 6, 7, 9, 2], [4, 7, 8, 2])


def test_the_longest_context_decides() -> None:
    """After what begins a report, after four tokens, and after fewer where these are not known."""
    table = count_drafts(REPORTS)

    assert table.propose([5], 4) == [6, 7, 9, 2]
    assert table.propose([5], 2) == [6, 7]
    # The beginning of a report is continued differently.
    assert table.propose([3, 3, 3, 3, 7], 1) == [8]
    assert table.propose([11], 4) == []


def test_what_one_report_says_is_not_in_the_table() -> None:
    """Also where it says it twice."""
    table = count_drafts([[21, 22, 21, 22, 21, 22], [31, 32]])

    assert len(table.contexts) == 0
    assert table.propose([21], 4) == []


def test_tables_are_reproducible(tmp_path: Path) -> None:
    """The order of the reports changes no byte, and a table is read as it was written."""
    draw = random.Random(0)
    reports = [[draw.randrange(30) for _ in range(20)] for _ in range(60)]
    count_drafts(reports).write(tmp_path / "a")
    count_drafts(draw.sample(reports, len(reports))).write(tmp_path / "b")

    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    read, made = read_drafts(tmp_path / "a", 30), count_drafts(reports)
    for name in ("contexts", "tokens", "shares"):
        np.testing.assert_array_equal(getattr(read, name), getattr(made, name))


def test_a_table_has_its_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of more than fit, what most reports say is kept."""
    largest = module._ENTRIES
    full = Drafts(np.arange(largest), np.zeros(largest, np.int32), np.zeros(largest, np.uint8))
    full.write(tmp_path / "full")
    assert MAX_BYTES - 2000 < (tmp_path / "full").stat().st_size <= MAX_BYTES
    monkeypatch.setattr(module, "_ENTRIES", 3)

    table = count_drafts([[1, 2], [1, 2], [1, 2], [8, 9], [8, 9]])

    assert table.propose([1], 1) == [2]
    assert table.propose([8], 1) == []


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"tokens": np.array([0, 30], np.int32)}, "knows 30"),
        ({"tokens": np.array([0, -1], np.int32)}, "knows 30"),
        ({"contexts": np.array([2, 2])}, "ascending"),
        ({"shares": np.zeros(3, np.uint8)}, "different shapes"),
        ({"shares": np.zeros(2)}, "not a table"),
    ],
    ids=str,
)
def test_damaged_tables(change: Mapping[str, Any], reason: str, tmp_path: Path) -> None:
    """The file is named."""
    good = {"contexts": np.array([1, 2]), "tokens": np.zeros(2, np.int32), "shares": np.zeros(2, np.uint8)}
    Drafts(**(good | change)).write(tmp_path / "drafts")

    with pytest.raises(ArchiveError, match=reason) as raised:
        read_drafts(tmp_path / "drafts", 30)
    assert str(tmp_path / "drafts") in str(raised.value)
