"""Banned phrases: no text contains one, every other text is as reachable as before."""

import dataclasses
import itertools
import random
import re
import statistics
import sys
import time
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Regex, Tokenizer, decoders, models

from prelim.errors import InvalidOption
from prelim.generation.banned_phrases import Bans
from prelim.generation.constraint import Constraints
from prelim.generation.decode_request import DecodeRequest
from prelim.generation.engine import Engine
from prelim.generation.options import GenerationOptions
from prelim.generation.text_stages import cut_at_stop
from prelim.generation.token_text import BAR, canonical
from prelim.networks.model_folder import read_model_folder
from prelim.networks.trained_decoder import serving_decoder
from tests.model_src.generation.reference import BOS, EOS, PAD, VOCAB_SIZE, tiny_decoder, tiny_image
from tests.model_src.generation.tokenizer_kinds import IN_USE, ROOT, SMALL

PHRASES = (
    "unchanged",
    "compared to",
    "x-ray",
    "s s",
    "lung clear",
    "mm lung",
    "isn't",
    "is",
    "≥",
    "心",
    "lungs",
    "findings:",
    "clear",
)
"""Some of them are words of the small vocabularies, and parts of other tokens."""


def contains(text: str, phrase: str) -> bool:
    """Whether a text has a phrase at the limits of words, by a regular expression over both, folded."""
    text, phrase = (unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", t).casefold()) for t in (text, phrase))
    text = "".join(c for c in text if c.isspace() or unicodedata.category(c) not in ("Cc", "Cf"))  # cannot be seen
    text = re.sub("[\u2e80-\u30ff\u31f0-\u9fff]", r" \g<0> ", text)  # written without spaces between words
    atoms = re.findall(r"[^\W_]+|\S", phrase)
    joined = re.escape(atoms[0])
    for before, after in itertools.pairwise(atoms):
        joined += (r"\s+" if before[-1].isalnum() and after[0].isalnum() else r"\s*") + re.escape(after)
    left = r"(?<![^\W_])(?<![\u0300-\u036f])" if atoms[0][0].isalnum() else ""
    right = r"(?![^\W_])(?![\u0300-\u036f])" if atoms[-1][-1].isalnum() else ""
    return re.search(left + joined + right, text) is not None


def vocabulary(*words: str) -> Tokenizer:
    """A tokenizer with these word pieces after the special tokens, up to VOCAB_SIZE tokens."""
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *words]
    pieces += [f"w{i}" for i in range(VOCAB_SIZE - len(pieces))]
    tokenizer = Tokenizer(models.WordLevel({piece: i for i, piece in enumerate(pieces)}, unk_token="[UNK]"))  # noqa: S106
    tokenizer.add_special_tokens(pieces[:4])
    tokenizer.decoder = decoders.WordPiece(cleanup=False)
    return tokenizer


WORDS = vocabulary("un", "##changed", "unchanged", "##ch", "##anged", "is", "##n", "as", "before", "-", ".", "##s")


def engine(tokenizer: Tokenizer, size: int = VOCAB_SIZE, end: int = EOS) -> Engine:
    """An engine over the tiny decoder, with the texts of a tokenizer."""
    return Engine(
        tiny_decoder(vocab_size=size, eos=end),
        slots=4,
        eos_token_ids=[end],
        pad_token_id=PAD,
        detokenize=lambda ids: tokenizer.decode(list(ids)),
        constraints=Constraints(tokenizer, [end]),
    )


def draw_options(draw: random.Random, number: int) -> GenerationOptions:
    """Random beams, sampling and length."""
    sample = draw.random() < 0.5
    return GenerationOptions(
        num_beams=draw.choice((1, 1, 2, 3)),
        do_sample=sample,
        temperature=draw.choice((1.0, 3.0)),
        seed=number if sample else None,
        max_new_tokens=draw.randint(1, 12),
    )


def texts(found: Sequence[int], tokenizer: Tokenizer) -> list[str]:
    """The text after each token."""
    return [tokenizer.decode(list(found[:length])) for length in range(len(found) + 1)]


@pytest.mark.parametrize("kind", [*SMALL, *IN_USE])
def test_forbidden_tokens_are_those_that_complete_a_phrase(kind: str, tmp_path: Path) -> None:
    """After random tokens, a token is forbidden if and only if the text with it contains a phrase."""
    tokenizer = {**SMALL, **IN_USE}[kind](tmp_path)
    draw = random.Random(0)
    bans, count = Bans(tokenizer), tokenizer.get_vocab_size()
    usable = [phrase for phrase in PHRASES if kind not in ("Moses", "BioGPT") or re.fullmatch(r"[\w ]+", phrase)]
    prose = tokenizer.encode("the lungs is n't unchanged, x - ray compared to 5 mm s s lung clear ≥ 心").ids
    found = 0
    for _ in range(60 if kind in SMALL else 12):
        phrases = tuple(draw.sample(usable, draw.randint(1, 4)))
        ban = bans.of(GenerationOptions(banned_phrases=phrases))
        assert ban is not None
        place, ids, follow = ban.start, [], draw.randrange(len(prose))
        for _ in range(draw.randint(0, 14)):
            forbidden = set(ban.banned(place).tolist())
            following = prose[(follow + len(ids)) % len(prose)]
            tried = {following, *(draw.choice(prose) for _ in range(30)), *(draw.randrange(count) for _ in range(30))}
            tried |= set(draw.sample(sorted(forbidden), min(len(forbidden), 10)))
            for token in tried:
                whole = tokenizer.decode([*ids, token])
                said = any(contains(whole, phrase) for phrase in phrases)
                assert (token in forbidden) == said, (phrases, tokenizer.decode(ids), tokenizer.id_to_token(token))
                found += said
            free = sorted(tried - forbidden)
            if not free:
                break
            ids.append(following if following in free and draw.random() < 0.9 else draw.choice(free))
            place = ban.advance(place, ids[-1])
    assert found


@pytest.mark.parametrize("beams", [2, 3, 16])
def test_beam_search_is_that_over_the_texts_without_a_phrase(beams: int) -> None:
    """The best sequences of four tokens are those of all continuations, filtered by their texts."""
    phrases = ("unchanged", "is as", "before.")
    options = GenerationOptions(num_beams=beams, max_new_tokens=3, num_return_sequences=beams, banned_phrases=phrases)
    decoder, image = tiny_decoder(), tiny_image(3)
    found = engine(WORDS).decode({"a": DecodeRequest(image, (BOS,), options)})["a"]

    expected = search(decoder, image, phrases, beams)

    assert [list(hypothesis.token_ids) for hypothesis in found] == [ids for ids, _ in expected]
    assert [hypothesis.sum_logprob for hypothesis in found] == pytest.approx([total for _, total in expected], abs=1e-4)


def search(decoder: object, image: torch.Tensor, phrases: Sequence[str], beams: int) -> list[tuple[list[int], float]]:
    """Beam search of three steps over lists, which asks a regular expression about the text of every continuation."""
    from tests.forcing import logits_after_each

    open_, finished = [([], 0.0)], []
    for step in range(3):
        candidates = []
        for ids, total in open_:
            logprobs = (
                logits_after_each(decoder, image[None], torch.tensor([[BOS, *ids]]))[0, -1].detach().log_softmax(-1)
            )
            for token in range(VOCAB_SIZE):
                whole = [*ids, token]
                if not any(contains(WORDS.decode(whole), phrase) for phrase in phrases):
                    candidates.append((whole, total + float(logprobs[token])))
        best = sorted(candidates, key=lambda pair: -pair[1])[: 2 * beams]
        finished += [(ids, total) for ids, total in best[:beams] if ids[-1] == EOS or step == 2]
        open_ = [(ids, total) for ids, total in best if ids[-1] != EOS][:beams]
    return sorted(finished, key=lambda pair: -pair[1] / len(pair[0]))[:beams]


def run_random(count: int) -> None:
    """Decode random requests with random phrases, and look at all texts."""
    draw = random.Random(1)
    batch = engine(WORDS)
    words = ("unchanged", "un", "is", "isn", "as before", "is as", "-", "un-", "s", "w7", "w8 w9", "before . as")
    plain = banned = 0
    for start in range(0, count, 50):
        requests, asked = {}, {}
        for i in range(start, start + 50):
            phrases = tuple(draw.sample(words, draw.randint(1, 4)))
            asked[str(i)] = dataclasses.replace(
                draw_options(draw, i),
                stop=draw.choice(((), (), ("ch",), ("as", "ed"))),
                banned_phrases=phrases,
            )
            requests[str(i)] = DecodeRequest(tiny_image(i % 7), (BOS,), asked[str(i)])
        for key, hypotheses in batch.decode(requests).items():
            for hypothesis in hypotheses:
                text = cut_at_stop(WORDS.decode(list(hypothesis.token_ids)), asked[key].stop)
                assert not any(contains(text, phrase) for phrase in asked[key].banned_phrases), (asked[key], text)
                plain += 1
                banned += any(contains(text, phrase) for phrase in words)
    assert plain >= count
    assert banned > count / 10, "words that others ban are written"


def test_no_report_contains_a_banned_phrase() -> None:
    """A sample of the 10,000 random runs below."""
    run_random(400)


@pytest.mark.exhaustive
def test_no_report_of_ten_thousand_contains_a_banned_phrase() -> None:
    """Random phrases, beams, sampling, lengths and stop texts."""
    run_random(10_000)


PRIORS = (
    "compared to",
    "unchanged",
    "interval",
    "prior",
    "previous",
    "stable",
    "again seen",
    "new",
    "since",
    "worsened",
)


def added_time(count: int, **constraint: Any) -> float:
    """How much longer a step of three beams takes with a constraint, as a share.

    CPU time of the demo's decoder with and without it, taking turns; the median of so many reports each.
    """
    model = read_model_folder(ROOT / "models" / "demo")
    tokens = model.config.tokenizer
    demo = Engine(
        serving_decoder(model.network.decoder),
        slots=1,
        eos_token_ids=tokens.eos_token_ids,
        pad_token_id=tokens.pad_token_id,
        detokenize=lambda ids: model.tokenizer.decode(list(ids)),
        constraints=Constraints(model.tokenizer, tokens.eos_token_ids),
    )
    image = torch.randn(36, 256, generator=torch.Generator().manual_seed(0))

    def seconds(**constraint: Any) -> float:
        options = GenerationOptions(num_beams=3, max_new_tokens=48, min_new_tokens=47, **constraint)
        began = time.process_time()
        demo.decode({"a": DecodeRequest(image, (tokens.bos_token_id,), options)})
        return time.process_time() - began

    turns = [(seconds(), seconds(**constraint)) for _ in range(count + 1)][1:]
    plain, constrained = (statistics.median(times) for times in zip(*turns, strict=True))
    added = constrained / plain - 1
    sys.stdout.write(f"a step of 1x3: {1000 * plain / 48:.2f} ms, with {', '.join(constraint)} {added:+.1%}\n")
    return added


@pytest.mark.exhaustive
def test_a_step_of_three_beams_takes_at_most_a_tenth_longer() -> None:
    """With ten phrases that name priors."""
    assert added_time(40, banned_phrases=PRIORS) < 0.1


def test_a_word_that_begins_with_a_phrase_is_possible() -> None:
    """As one token; a phrase that a later token would make longer is never written."""
    tokenizer = vocabulary("interval", "##s", "intervals", "no", "un-interval")
    ban = Bans(tokenizer).of(GenerationOptions(banned_phrases=("INTERVAL",)))
    assert ban is not None
    names = [tokenizer.id_to_token(i) for i in ban.banned(ban.start).tolist()]
    assert names == ["interval", "un-interval"]
    later = ban.advance(ban.start, tokenizer.token_to_id("no"))
    assert [tokenizer.id_to_token(i) for i in ban.banned(later).tolist()] == ["interval", "un-interval"]


def test_text_that_a_stop_text_cuts_off_completes_no_phrase() -> None:
    """What is left of a longer word after the cut is not a banned phrase."""
    tokenizer = vocabulary("interval", "##s", "intervals", "intervalx", "interval\u00adxy")
    for stop, cut in (("s", "intervals"), ("\u00adxy", "interval\u00adxy")):
        ban = Bans(tokenizer).of(GenerationOptions(banned_phrases=("interval",), stop=("sx", stop, "no")))
        assert ban is not None
        assert [tokenizer.id_to_token(i) for i in ban.banned(ban.start).tolist()] == ["interval", cut]


@pytest.mark.parametrize(
    ("decoder", "phrase", "message"),
    [
        (None, "prior", "cannot be mapped to text: its decoder has a step none"),
        (decoders.BPEDecoder(), "prior", "a step BPEDecoder"),
        (decoders.Sequence([decoders.Fuse(), decoders.Replace(Regex("a+"), "b")]), "prior", "that changes words"),
        (decoders.WordPiece(), "\u00ad", "nothing but white space in entry 1"),
    ],
)
def test_what_cannot_be_banned_is_refused(decoder: decoders.Decoder | None, phrase: str, message: str) -> None:
    """A tokenizer whose texts are not known, and a phrase that no text shows."""
    tokenizer = vocabulary("a")
    tokenizer.decoder = decoder
    with pytest.raises(InvalidOption, match=message):
        Bans(tokenizer).of(GenerationOptions(banned_phrases=(phrase,)))


def test_signs_are_refused_where_rules_join_them(tmp_path: Path) -> None:
    """BioGPT's rules write other signs than the tokens have."""
    with pytest.raises(InvalidOption, match="only letters, digits and spaces"):
        Bans(SMALL["Moses"](tmp_path)).of(GenerationOptions(banned_phrases=("x-ray",)))


def test_canonical_text_ignores_what_decoders_change() -> None:
    """Case, white space at signs, forms of accents."""
    assert canonical("X - ray  of the\nchest .") == canonical("x-ray of the chest.")
    assert canonical("na\u00efve") == canonical("nai\u0308ve")
    assert canonical("a b") == f"{BAR}a{BAR}b{BAR}"
    assert canonical("ab") != canonical("a b")
    assert canonical("心肺 正常") == canonical("心肺正常")
