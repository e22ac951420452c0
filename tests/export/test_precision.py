"""The precision that model.yaml asks for is that of the archive's decoder."""

import dataclasses
import shutil
from pathlib import Path

import pytest
import torch

from export.package import write_decoder
from model_src.archive import DECODER, load_decoder, read_archive, write_archive_config
from model_src.errors import ArchiveError
from model_src.model_folder import read_model_folder
from model_src.report import Report
from model_src.report_generator import ReportGenerator, ReportRequest
from tests.tiny_model import CONFIG, png


@pytest.fixture(scope="module")
def halved(tiny_model: Path, tiny_archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model's archive in bf16."""
    folder = tmp_path_factory.mktemp("halved") / "archive"
    shutil.copytree(tiny_archive, folder)
    model = read_model_folder(tiny_model, decoder_as_stored=True)
    config = dataclasses.replace(model.config, precision="bf16")
    write_decoder(dataclasses.replace(model, config=config), folder)
    write_archive_config(folder, config)
    return folder


def test_decoder_in_bf16_takes_half_the_bytes(tiny_archive: Path, halved: Path) -> None:
    """The weights take half the space, and the same words are about as likely as in fp32."""
    whole, half = (load_decoder(read_archive(folder)) for folder in (tiny_archive, halved))
    image_embeds, prompt_ids = torch.randn(1, 4, 32), torch.tensor([[2]])

    logits = []
    for decoder in (whole, half):
        state = decoder.new_state(1)
        state.cache.reserve(1)
        logits.append(decoder.prefill(state, slice(0, 1), image_embeds, prompt_ids))
    expected, actual = logits

    assert (halved / DECODER).stat().st_size < 0.6 * (tiny_archive / DECODER).stat().st_size
    assert actual.dtype == torch.bfloat16
    torch.testing.assert_close(actual.float(), expected, rtol=0.05, atol=0.1)


def test_reports_come_in_bf16(halved: Path) -> None:
    """An archive in bf16 answers, whatever mixture of requests it is asked."""
    reports = ReportGenerator.load(halved).generate([ReportRequest(image=png(seed)) for seed in range(3)])

    assert all(isinstance(report, Report) and report.token_ids for report in reports)


def test_unknown_precision_is_refused() -> None:
    """Another precision is an error that lists the known ones."""
    with pytest.raises(ArchiveError, match=r"precision is 'fp8'; allowed: fp32, bf16"):
        dataclasses.replace(CONFIG, precision="fp8")
