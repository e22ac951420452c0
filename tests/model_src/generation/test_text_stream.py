"""What a stream sends is exactly the text, and is sent as soon as it can be known."""

import itertools
import random
from pathlib import Path

import pytest
from tokenizers import Regex, Tokenizer, decoders
from transformers.convert_slow_tokenizer import bytes_to_unicode

from prelim.generation.text_stages import Bytes, cut_at_stop
from prelim.generation.text_stream import TextStreams
from tests.model_src.generation.tokenizer_kinds import IN_USE, SMALL

PROSE = (
    "The lungs are clear ; covid - 19 isn't likely, nodule >= 5 mm ( ≥5 mm ), \"x-ray\" 'of' the patients' "
    "chests 's $ 5 . naïve 心肺 正常 🫁 don ' t , n't & &amp; @-@ - - . . ! ?"
)


@pytest.fixture(params=[*SMALL, *IN_USE])
def tokenizer(request: pytest.FixtureRequest, tmp_path: Path) -> Tokenizer:
    """Each kind in turn."""
    return {**SMALL, **IN_USE}[request.param](tmp_path)


def pools(tokenizer: Tokenizer) -> list[list[int]]:
    """Tokens to draw from: all; special ones; bytes; those of a text with everything that decoders rewrite."""
    everything = list(range(tokenizer.get_vocab_size()))
    special = list(tokenizer.get_added_tokens_decoder())
    single = [i for i in everything[:1000] if len((tokenizer.id_to_token(i) or "").removesuffix("</w>")) in (1, 6)]
    prose = tokenizer.encode(PROSE, add_special_tokens=False).ids
    return [pool for pool in (everything, special, single, prose, prose) if pool]


def stops(draw: random.Random, text: str) -> tuple[str, ...]:
    """Stop texts, most of them parts of the text, some of these with another end."""
    found = []
    for _ in range(draw.choice((0, 0, 1, 2, 5))):
        place = draw.randrange(len(text) + 1)
        found.append(text[place : place + draw.randint(1, 8)] + draw.choice(("", "", "x", " ", ".")))
    return tuple(stop for stop in found if stop)


def test_characters_of_bytes_are_those_of_gpt2() -> None:
    """Each byte has one; an added token is its own text."""
    shown = bytes_to_unicode()
    assert {character: byte for byte, character in shown.items()} == Bytes._BYTE
    assert Bytes().encode("".join(shown.values())) == bytes(shown)
    assert Bytes().encode("–") == "–".encode()


@pytest.mark.parametrize("count", [100, pytest.param(500, marks=pytest.mark.exhaustive)])
def test_decided_text_is_the_beginning_of_the_report(tokenizer: Tokenizer, count: int) -> None:
    """Random tokens, steps and stop texts: the sent text is always the beginning of the whole text."""
    draw = random.Random(0)
    streams, available, sent = TextStreams(tokenizer), pools(tokenizer), 0
    for _ in range(count):
        chosen = draw.sample(available, draw.randint(1, len(available)))
        ids = [draw.choice(draw.choice(chosen)) for _ in range(draw.randint(0, 50))]
        decoded = tokenizer.decode(ids)
        stop = stops(draw, decoded)
        whole = cut_at_stop(decoded, stop)
        stream, done, text = streams.open(stop), 0, ""
        while done < len(ids):
            done = min(len(ids), done + draw.choice((1, 1, 2, 8)))
            text += stream.feed(ids[:done])
            assert whole.startswith(text), (ids, stop)
        sent += len(text)
    assert sent > 2 * count


@pytest.mark.parametrize("count", [3, pytest.param(8, marks=pytest.mark.exhaustive)])
@pytest.mark.parametrize("kind", ["byte-level", "BERT", "WordPiece", "WordPiece alone"])
def test_text_is_sent_as_soon_as_it_is_known(kind: str, count: int, tmp_path: Path) -> None:
    """The sent text is the common beginning of all continuations by up to three tokens."""
    tokenizer = SMALL[kind](tmp_path)
    hyphen = tokenizer.token_to_id("-")
    tokens = list(range(min(tokenizer.get_vocab_size(), 18))) + ([hyphen] if hyphen else [])
    following = [more for length in range(4) for more in itertools.product(tokens, repeat=length)]
    draw = random.Random(1)
    for _ in range(count):
        ids = [draw.choice(tokens) for _ in range(draw.randint(1, 10))]

        sent = TextStreams(tokenizer).open().feed(ids)

        texts = [tokenizer.decode([*ids, *more]) for more in following]
        first, last = min(texts), max(texts)
        assert (
            sent == first[: next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))]
        )


def test_text_flows(tokenizer: Tokenizer) -> None:
    """In ordinary text at most about two words are held, a run of bytes or pieces of one word included."""
    ids = tokenizer.encode(8 * "the heart is not enlarged . covid - 19 ; s , lung , s , ", add_special_tokens=False).ids
    stream, sent = TextStreams(tokenizer).open(("###",)), ""
    for length in range(1, len(ids) + 1):
        sent += stream.feed(ids[:length])
        assert len(tokenizer.decode(ids[:length])) - len(sent) <= 16
    assert len(ids) > 10


def test_bytes_are_held_to_the_end_of_their_run(tmp_path: Path) -> None:
    """Llama's decoder loses a whole run of bytes if one of them is wrong, so no part of it is sent before."""
    tokenizer = SMALL["SentencePiece"](tmp_path)
    lung, mm = (tokenizer.token_to_id(piece) for piece in ("▁lung", "mm"))
    sign = [tokenizer.token_to_id(f"<0x{byte:02X}>") for byte in "≥".encode()]
    right, wrong = TextStreams(tokenizer).open(), TextStreams(tokenizer).open()

    assert [right.feed([lung, *sign][:length]) for length in (1, 2, 4)] == ["lung", "", ""]
    assert right.feed([lung, *sign, mm]) == "≥mm"
    assert wrong.feed([lung, *sign, sign[0], mm]) == "lung����mm"


def test_stop_text_across_calls_is_not_sent() -> None:
    """What may become a stop text is held with the space before it: sent if it does not, dropped if it does."""
    tokenizer = SMALL["WordPiece alone"](Path())
    findings, colon, the, plural, dot = (tokenizer.token_to_id(piece) for piece in ("findings", ":", "the", "##s", "."))
    ids = [the, findings, colon, the, plural, dot, the]

    def sent(*stop: str) -> list[str]:
        stream = TextStreams(tokenizer).open(stop)
        return [stream.feed(ids[:length]) for length in range(1, len(ids) + 1)]

    assert sent("findings : that") == ["the", "", "", " findings : the", "s", ".", " the"]
    assert sent("thes") == ["", "the findings", " :", "", "", "", ""]
    # A longer one that begins before a shorter one counts if it comes to its end.
    assert sent("the findings : thes.", "findings") == ["", "", "", "", "", "", ""]
    assert sent("the findings : thesis", "s : the") == ["", "", "", "", "", "the finding", ""]


@pytest.mark.parametrize(
    "decoder",
    [
        None,
        decoders.CTC(),
        decoders.BPEDecoder(),
        decoders.Sequence([decoders.Fuse(), decoders.Replace(Regex("(?=a+b)a"), "c")]),
        decoders.Sequence([decoders.Fuse(), decoders.Strip(" ", 0, 1)]),
    ],
)
def test_text_of_an_unknown_decoder_waits_for_its_end(decoder: decoders.Decoder | None) -> None:
    """Where it is not known what later tokens change, nothing is sent before the report."""
    tokenizer = SMALL["WordPiece alone"](Path())
    tokenizer.decoder = decoder

    assert TextStreams(tokenizer).open().feed([4, 5, 6]) == ""
