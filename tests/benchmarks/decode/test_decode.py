"""The decode benchmark: its arithmetic, and that all contenders do the same work."""

import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest

from benchmarks.decode.__main__ import Settings, bench, unlike_generate
from benchmarks.decode.contender import Contender, Decoding, DecodingResult, PeerFailed
from benchmarks.decode.floor import COSTS, Floor, first_token_floor, floor
from benchmarks.decode.peers import generate, prelim
from benchmarks.decode.point import Point
from benchmarks.decode.restricted import RESTRICTED
from benchmarks.decode.rounds import CpuSeconds, Series, measure, prefixes
from benchmarks.decode.table import markdown, markdown_table, rows
from benchmarks.machine import IDLE
from benchmarks.models.shapes import SHAPES, Shape, Work, checkpoint, work
from prelim.kernels.instructions import FORCED_BY, KNOWN
from prelim.networks.machine import Machine

BIOGPT = {
    "kind": "transformers",
    "model_type": "biogpt",
    "vocab_size": 300,
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "max_position_embeddings": 80,
}
LLAMA = BIOGPT | {
    "model_type": "llama",
    "num_key_value_heads": 2,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
    "tie_word_embeddings": True,
}
GPT2 = {
    "kind": "transformers",
    "model_type": "gpt2",
    "add_cross_attention": True,
    "vocab_size": 300,
    "n_embd": 64,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": 80,
}
BERT = BIOGPT | {"model_type": "bert", "add_cross_attention": True}
TINY = {
    "biogpt": Shape("tiny_biogpt", BIOGPT, image_tokens=5, prompt=2),
    "llama": Shape("tiny_llama", LLAMA, image_tokens=5, prompt=2),
    # Few image tokens: with random weights attention over many is close to their mean, which is similar for all images.
    "demo": dataclasses.replace(SHAPES["demo"], image_tokens=5),
    "gpt2": Shape("tiny_gpt2", GPT2, image_tokens=5, prompt=0),
    "bert": Shape("tiny_bert", BERT, image_tokens=5, prompt=0),
}
MACHINE = Machine(read=2e9, copy=1e9, operations={"fp32": 1e9, "bf16": 4e9, "int8": 8e9})
WORK = Work(parameters=1100, matrix=1000, scores=200, key_value=10, image_column=0)
PREFIX = Shape("prefix", BIOGPT, image_tokens=5, prompt=1)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the checkpoints of these tests."""
    return tmp_path_factory.mktemp("checkpoints")


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize("beams", [1, 3])
def test_token_ids_equal_generate(name: str, beams: int, store: Path) -> None:
    """In fp32 ours and `generate` decode the same token ids from a checkpoint, and these depend on the image."""
    shape = TINY[name]
    folder = checkpoint(shape, store)
    ours, theirs = prelim.Peer(folder, 1), generate.Peer(folder, 1)
    ours.load("fp32")
    theirs.load("fp32")
    images = prefixes(shape, 3)

    tokens = ours.run("fp32", images, beams, 12)

    assert tokens == theirs.run("fp32", images, beams, 12)
    assert len({tuple(ids) for ids in tokens}) > 1


def test_all_precisions_decode(store: Path) -> None:
    """Every served precision decodes the requested number of tokens, and has a cost in the floor."""
    peer = prelim.Peer(checkpoint(TINY["biogpt"], store), 1)
    for precision in peer.precisions:
        peer.load(precision)
        assert [len(ids) for ids in peer.run(precision, prefixes(TINY["biogpt"], 2), 2, 4)] == [4, 4]
        assert precision.partition("_")[0] in COSTS


@pytest.mark.parametrize(("name", "millions"), [("biogpt", 347), ("llama352m", 352), ("llama135m", 134.5)])
def test_shapes_have_their_nominal_size(name: str, millions: float) -> None:
    """Compared decoders agree within 2 % in their parameters and in the weights that a step reads."""
    amount = work(SHAPES[name])
    assert amount.parameters == pytest.approx(millions * 1e6, rel=0.02)
    assert amount.matrix == pytest.approx(amount.parameters, rel=0.02)


def test_floor_of_one_row_is_bandwidth() -> None:
    """One row: the weights, six columns of prefix and on average two of its own, divided by the better bandwidth."""
    found = floor(PREFIX, WORK, dataclasses.replace(MACHINE, copy=4e9), "bf16", images=1, beams=1, steps=3)
    assert found.bound == "bandwidth"
    assert found.seconds == pytest.approx((1000 * 2 + (6 + 2) * 10 * 2) / 4e9)


def test_floor_of_many_rows_is_arithmetic() -> None:
    """Twelve rows in fp32: two operations per row for each weight and for each element of the cache it reads."""
    found = floor(PREFIX, WORK, MACHINE, "fp32", images=4, beams=3, steps=3)
    assert found.bound == "arithmetic"
    assert found.seconds == pytest.approx(2 * 12 * (1000 + (6 + 2) * 10) / 1e9)


def test_beams_share_the_prefix_in_the_floor() -> None:
    """Three beams read one prefix, three images read three."""
    fast = Machine(read=1e9, copy=1e9, operations=dict.fromkeys(MACHINE.operations, 1e15))
    beams = floor(PREFIX, WORK, fast, "fp32", images=1, beams=3, steps=3).seconds
    images = floor(PREFIX, WORK, fast, "fp32", images=3, beams=1, steps=3).seconds
    assert images - beams == pytest.approx(2 * 6 * 10 * 4 / 1e9)


def test_floor_of_first_tokens() -> None:
    """Every row of the prefixes is multiplied, one of each is scored, and looks at itself and those before it."""
    found = first_token_floor(PREFIX, WORK, MACHINE, "int8", images=3)
    assert found.bound == "arithmetic"
    assert found.seconds == pytest.approx(2 * 3 * (6 * 800 + 200 + (1 + 2 + 3 + 4 + 5 + 6) * 10) / 8e9)
    slow = dataclasses.replace(MACHINE, read=1e6, copy=1e6)
    assert first_token_floor(PREFIX, WORK, slow, "int8", images=3).seconds == pytest.approx(1000 / 1e6)


def test_floor_of_the_first_token_has_the_keys_of_the_image() -> None:
    """With cross-attention, one row is read, and the image's columns are multiplied once."""
    work = dataclasses.replace(WORK, image_column=20, image_matrix=400)
    shape = dataclasses.replace(SHAPES["demo"], image_tokens=50)
    found = first_token_floor(shape, work, MACHINE, "fp32", images=1)
    assert found.seconds == pytest.approx(2 * (1000 + 10 + 50 * 20 + 50 * 400) / 1e9)


def test_no_prefix_comes_twice() -> None:
    """An engine that keeps what it computed for a prefix has nothing of it."""

    class _Peer:
        name = "prelim"
        seen: ClassVar[list[Sequence[int]]] = []

        def measure(self, precision: str, job: Decoding) -> DecodingResult:
            self.seen.extend(job.prefixes)
            return DecodingResult(1.0, [[0] * job.new_tokens] * len(job.prefixes))

        def cpu_seconds(self) -> float:
            return 0.0

    peer: Any = _Peer()
    measure([(peer, "fp32")], PREFIX, Point(2, 1), rounds=2, steps=3, progress=str)
    assert len({tuple(ids) for ids in peer.seen}) == len(peer.seen) == 3 * 2 * 2


def _series(peer: str, precision: str, first: list[float], last: list[float], token_ids: list[list[int]]) -> Series:
    cpu = CpuSeconds(own=sum(first) + sum(last), others=0.0, machine=sum(first) + sum(last))
    return Series(peer, precision, 10, first, last, token_ids, cpu)


def test_table_divides_medians_and_counts_tokens() -> None:
    """Steps exclude the first token; ratios compare medians, with ours in the same precision and with our fastest."""
    results = [
        _series("prelim", "fp32", [1.0, 1.0, 5.0], [3.0, 3.5, 3.0], [[1, 2, 3]]),
        _series("prelim", "int8", [1.0], [2.0], [[1, 2, 4]]),
        _series("generate", "fp32", [2.0, 2.0], [8.0, 8.0], [[1, 2, 3]]),
        _series("openvino", "int8_dynamic", [0.5], [2.0], [[1, 9, 9]]),
    ]
    floors = dict.fromkeys(
        ("fp32", "int8", "int8_dynamic"), floor(PREFIX, WORK, MACHINE, "fp32", images=1, beams=1, steps=3)
    )

    first_floors = dict.fromkeys(floors, Floor(0.25, "arithmetic"))

    ours, fastest, theirs, peer = rows(results, floors, first_floors)

    assert (ours.median, ours.best) == (pytest.approx(200), pytest.approx(200))
    assert (ours.prefill, ours.first_floor, ours.first_share) == (1000, 250, 0.25)
    assert peer.first_share == 0.5
    assert (ours.same, ours.fastest) == (1, pytest.approx(2))
    assert (fastest.same, fastest.fastest) == (1, 1)
    assert (theirs.same, theirs.fastest, theirs.differing) == (pytest.approx(3), pytest.approx(6), 0)
    assert (peer.same, peer.fastest, peer.differing, peer.tokens) == (pytest.approx(1.5), pytest.approx(1.5), 2, 3)
    assert ours.of_floor == pytest.approx(ours.best / ours.floor)


def test_table_marks_unreliable_figures() -> None:
    """Figures under other load are marked, rounds that scatter give no figures, and a refusal has its reason."""
    beside = dataclasses.replace(
        _series("prelim", "fp32", [1.0], [3.0], [[1]]), cpu=CpuSeconds(own=4.0, others=0.0, machine=8.0)
    )
    scattered = _series("generate", "fp32", [3.0], [1.0], [[1]])
    refused = Series("llama_cpp", "fp32", 10, refused="it has no beams")
    floors = {"fp32": floor(PREFIX, WORK, MACHINE, "fp32", images=1, beams=1, steps=3)}

    page = markdown_table(rows([beside, scattered, refused], floors, floors))

    assert "| 200\\* |" in page
    assert "up to 1.0 cores" in page
    assert "generate fp32: its rounds scatter" in page
    assert "llama_cpp fp32: it has no beams" in page


@pytest.mark.parametrize("text", ["3", "0x3", "1x", "axb", "1x-3"])
def test_points_are_checked(text: str) -> None:
    """A point is two positive numbers."""
    with pytest.raises(ValueError, match="images x beams"):
        Point.parse(text)


def test_failed_peer_gives_the_reason(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A refused job gives the reason and the process continues; a process that exits gives the end of its log."""
    folder = checkpoint(TINY["biogpt"], store)
    with Contender("generate", folder, 1, tmp_path / "log") as contender:
        refused = contender.measure("int3", Decoding(prefixes(TINY["biogpt"], 1), 1, 2)).refused
        assert refused is not None
        assert "int3" in refused
        assert contender.measure("fp32", Decoding(prefixes(TINY["biogpt"], 1), 1, 2)).refused is None
    monkeypatch.setattr("benchmarks.decode.contender.PEERS_PYTHON", Path(sys.executable))
    with pytest.raises(PeerFailed, match=r"log ends with: .*No module.*nobody"):
        Contender("nobody", folder, 1, tmp_path / "log")
    monkeypatch.setattr("benchmarks.decode.contender.PEERS_PYTHON", tmp_path / "python")
    with pytest.raises(PeerFailed, match="make bench"):
        Contender("openvino", folder, 1, tmp_path / "log")


def test_restricted_processors_are_ours() -> None:
    """Each is a path of our kernels, and the page names the variables that all contenders were started with."""
    environment = RESTRICTED["avx2"]
    assert {name: one[FORCED_BY] for name, one in RESTRICTED.items()} == {name: name for name in RESTRICTED}
    assert {*RESTRICTED} <= {*KNOWN}
    settings = Settings((), (), ("llama_cpp",), (), rounds=1, steps=1, threads=1, processor="avx2")
    assert settings.restricted == environment
    machine = {"cpu": "a processor", "flags": [], "cores": 2}
    record = {"date": None, "commit": None, "versions": {}, "machine": machine, "shapes": {}}
    record |= {"floor": dataclasses.asdict(MACHINE)}
    record |= {"settings": {"threads": 1, "rounds": 1, "steps": 1, "restricted": environment}}
    assert "- Restricted to fewer instructions than it has: PRELIM_INSTRUCTIONS=avx2 " in markdown(record, {})


def test_bench_writes_its_results(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A tiny run shows its turns, and writes a table and JSON with every contender, the machine and settings."""
    monkeypatch.setattr("benchmarks.decode.__main__.measure_machine", lambda threads, more: MACHINE)
    settings = Settings(
        shapes=(TINY["llama"],),
        points=(Point(2, 3),),
        peers=("generate",),
        precisions=("fp32",),
        rounds=1,
        steps=12,
        threads=1,
    )

    bench(settings, tmp_path, store, "2026-01-02")

    assert "| 0/4 [" in capsys.readouterr().err
    record = json.loads((tmp_path / "decode.json").read_text(encoding="utf-8"))
    ours, theirs = record["shapes"]["tiny_llama"]["points"]["2x3"]
    assert (ours["peer"], theirs["peer"]) == ("prelim", "generate")
    assert len(ours["first_s"]) == len(theirs["last_s"]) == 1
    assert record["settings"]["environment"].keys() == IDLE.keys()
    assert {"torch", "transformers"} <= record["versions"].keys()
    assert unlike_generate(record) == []
    theirs["differing"] = 1
    assert unlike_generate(record) == ["tiny_llama 2x3"]
    page = (tmp_path / "decode.md").read_text(encoding="utf-8")
    assert "2026-01-02" in page
    assert "Restricted" not in page
    assert "| generate | fp32 |" in page
