"""Images are read while other requests are decoded."""

import threading
from concurrent.futures import wait
from pathlib import Path

import pytest
from torch import Tensor

from prelim.encoding import image_encoder
from prelim.encoding.network_session import ImageSession
from prelim.errors import UnreadableInput
from prelim.generation.options import GenerationOptions
from prelim.images.input_config import InputConfig
from prelim.images.radiograph import Radiograph, read_radiograph
from prelim.report import Report
from prelim.report_generator import ReportGenerator, ReportRequest
from tests.tiny_model import png

OPTIONS = GenerationOptions(max_new_tokens=12, min_new_tokens=12)


class SlowReader:
    """`read_radiograph` that continues only when it may."""

    def __init__(self) -> None:
        self.begun, self.may_continue = threading.Event(), threading.Event()

    def __call__(self, data: bytes, config: InputConfig) -> Radiograph:
        """The radiograph, when it may."""
        self.begun.set()
        assert self.may_continue.wait(60)
        return read_radiograph(data, config)


@pytest.fixture
def reader(monkeypatch: pytest.MonkeyPatch) -> SlowReader:
    """In place of the reader of an archive's images."""
    slow = SlowReader()
    monkeypatch.setattr(image_encoder, "read_radiograph", slow)
    return slow


def test_a_slow_image_keeps_nobody(tiny_archive: Path, reader: SlowReader) -> None:
    """A running report is finished before the image of the next request is read, and both are what they are alone."""
    generator = ReportGenerator.load(tiny_archive)
    gray = ReportRequest(image_features=generator._images.gray(), options=OPTIONS)
    image = ReportRequest(image=png(1), options=OPTIONS)
    generator.add("running", gray)
    generator.step()
    generator.add("slow", image)
    done: dict[str, object] = {}
    while "running" not in done:
        done |= generator.step()
    assert reader.begun.wait(60)
    assert generator.running == frozenset()
    reader.may_continue.set()
    while generator.active:
        done |= generator.step()

    alone = ReportGenerator.load(tiny_archive).generate([gray, image])
    together = [done["running"], done["slow"]]
    assert [(r.token_ids, r.logprobs) for r in together if isinstance(r, Report)] == [
        (r.token_ids, r.logprobs) for r in alone if isinstance(r, Report)
    ]
    assert len(alone) == 2


def test_an_image_that_cannot_be_read_ends_its_request_alone(tiny_archive: Path, reader: SlowReader) -> None:
    """Also when it was read in advance, and when its request has been canceled meanwhile."""
    reader.may_continue.set()
    generator = ReportGenerator.load(tiny_archive)
    broken = ReportRequest(image=png(2)[:-200], options=OPTIONS)
    fine = ReportRequest(image=png(3), options=OPTIONS)
    for name, request in {"fine": fine, "broken": broken, "gone": broken, "next": fine}.items():
        generator.add(name, request)
    generator.cancel("gone")
    done: dict[str, object] = {}
    while generator.active:
        done |= generator.step()

    assert isinstance(done["broken"], UnreadableInput)
    assert {name for name, end in done.items() if isinstance(end, Report)} == {"fine", "next"}


class Noting:
    """A vision encoder for four images at a time that notes its batches."""

    together = 4

    def __init__(self, session: ImageSession) -> None:
        self.output_shape = session.output_shape
        self.sizes: list[int] = []
        self._session = session

    def run(self, batch: Tensor) -> Tensor:
        """What the session gives."""
        self.sizes.append(len(batch))
        return self._session.run(batch)


def test_images_that_have_been_read_are_encoded_together(tiny_archive: Path) -> None:
    """Unless they cannot be read, or a picture of one is wanted; reports are what they are alone."""
    requests = {
        "first": ReportRequest(image=png(1), options=OPTIONS),
        "broken": ReportRequest(image=png(2)[:-200], options=OPTIONS),
        "pictured": ReportRequest(image=png(3), options=OPTIONS, return_image=True),
        "last": ReportRequest(image=png(4), options=OPTIONS),
    }
    generator = ReportGenerator.load(tiny_archive, slots=len(requests))
    noting = generator._images._vision = Noting(generator._images._vision)  # type: ignore[assignment]
    for name, request in requests.items():
        generator.add(name, request)
        pending = generator._engine.find(name)
        pending.read()
        wait(pending.being_read)
    done: dict[str, object] = {}
    while generator.active:
        done |= generator.step()

    assert noting.sizes == [2, 1]
    assert isinstance(done.pop("broken"), UnreadableInput)
    generator.reset()
    for name, report in done.items():
        (alone,) = generator.generate([requests[name]])
        assert isinstance(report, Report)
        assert isinstance(alone, Report)
        assert (report.token_ids, report.logprobs) == (alone.token_ids, alone.logprobs)
