"""`return_attention` requests the model's outputs besides the report, which come as nested lists."""

import json

import numpy as np

from handlers.exchange import Exchange
from handlers.request import read_request
from handlers.response import ServedModel, report_answer
from prelim.generation.options import GenerationOptions
from prelim.report import Report
from prelim.report_generator import ReportRequest

MODEL = ServedModel("small", "1.0", "densenet_disease_llama", "0" * 64)


def test_return_attention_is_read_as_field_and_as_option() -> None:
    """It can be a field or one of the options, and is off by default."""
    fields = [{"return_attention": b"true"}, {"options": b'{"return_attention": true}'}, {}]

    read = [read_request({"image": b"x", **row}, {"Accept": "*/*"}, GenerationOptions(), 8) for row in fields]

    assert [exchange.request.return_attention for exchange in read] == [True, True, False]


def test_insights_are_nested_lists() -> None:
    """The answer has each insight under its name, as lists of lists of numbers."""
    attention = np.full((14, 7, 7), 1 / 49, dtype=np.float32)
    report = Report("clear", None, None, "eos", (5, 2), -0.5, insights={"attention": attention})

    answer = json.loads(report_answer(report, Exchange(ReportRequest(image=b"x")), MODEL).body)

    assert np.shape(answer["attention"]) == (14, 7, 7)
    np.testing.assert_allclose(answer["attention"], attention, rtol=1e-5)
