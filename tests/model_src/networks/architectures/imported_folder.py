"""A folder of `transformers` on its way to reports: saved, imported, served, and compared with `generate`."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from export.import_checkpoint import import_checkpoint
from prelim.archive.archive import CONFIG, DECODER
from prelim.archive.manifest import write_manifest
from prelim.generation.options import GenerationOptions
from prelim.images.preprocess import preprocess
from prelim.images.radiograph import read_radiograph
from prelim.networks.model_folder import read_model_folder, read_network
from prelim.report import Report
from prelim.report_generator import ReportGenerator, ReportRequest
from tests.archives import write_files
from tests.model_src.generation.reference import generate_arguments, without_filling
from tests.model_src.networks.architectures.small_xraygpt import letters_tokenizer

CASES: dict[str, tuple[int, dict[str, Any]]] = {
    "greedy": (1, {}),
    "three images": (3, {}),
    "penalty": (1, {"repetition_penalty": 1.3}),
    "ban": (2, {"no_repeat_ngram_size": 2}),
    "two beams": (1, {"num_beams": 2, "repetition_penalty": 1.5}),
    "three beams": (2, {"num_beams": 3, "no_repeat_ngram_size": 3, "num_return_sequences": 2}),
    "four beams": (2, {"num_beams": 4, "early_stopping": True, "length_penalty": 0.5, "repetition_penalty": 1.1}),
    "five beams": (1, {"num_beams": 5, "repetition_penalty": 1.2, "no_repeat_ngram_size": 2}),
    "sampling": (1, {"do_sample": True, "seed": 3, "top_p": 0.9, "repetition_penalty": 1.2}),
    "beam sampling": (2, {"do_sample": True, "seed": 4, "num_beams": 2, "no_repeat_ngram_size": 4}),
}
"""Number of images, and options."""


def save_tokenizer(folder: Path, marks: Sequence[str], template: str, **special: str) -> None:
    """Save a tokenizer of letters with further tokens, and a chat template."""
    tokenizer = letters_tokenizer()
    tokenizer.add_special_tokens(list(marks))
    whole = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)
    whole.chat_template = template
    whole.save_pretrained(folder)


def import_folder(system: str, checkpoint: Path) -> Path:
    """The model folder of a checkpoint with its tokenizer, next to it."""
    folder = checkpoint.parent / "model"
    import_checkpoint(system, [checkpoint], checkpoint, folder, "small")
    return folder


def package(folder: Path) -> Path:
    """The files of the archive of a model folder, next to it."""
    archive = folder.parent / "archive"
    archive.mkdir()
    write_files(read_model_folder(folder), archive)
    return archive


def serve(folder: Path, slots: int = 3) -> ReportGenerator:
    """The archive of a model folder, served."""
    return ReportGenerator.load(package(folder), slots=slots)


def pixel_values(folder: Path, images: Sequence[bytes]) -> Tensor:
    """What the network of a model folder gets of files, shape (images, channels, side, side)."""
    config = read_network(folder)[0]
    arrays = [preprocess(read_radiograph(image, config.input), config.preprocess) for image in images]
    return torch.stack([torch.from_numpy(array) for array in arrays])


def generated_rows(
    model: Any, inputs: Mapping[str, Tensor], options: GenerationOptions, eos: int | list[int], pad: int, **others: Any
) -> list[list[int]]:
    """Token ids by `generate` of each sequence that it returns.

    inputs : of the model, with input_ids, shape (1, length)
    others : arguments of `generate`
    """
    ids = inputs["input_ids"]
    if options.seed is not None:
        torch.manual_seed(options.seed)
    with torch.inference_mode():
        found = model.generate(
            **{
                **inputs,
                "attention_mask": torch.ones_like(ids),
                "eos_token_id": eos,
                "pad_token_id": pad,
                **generate_arguments(options),
                **others,
            }
        )
    return [without_filling(row, eos, pad) for row in found[:, ids.shape[1] :].tolist()]


def assert_reports_are(
    generator: ReportGenerator, requests: Mapping[str, ReportRequest], expected: Mapping[str, list[list[int]]]
) -> None:
    """The token ids of all sequences are these, alone and in flight, and each has at least ten different ones."""
    together = generator.generate(list(requests.values()))
    alone = [generator.generate([request])[0] for request in requests.values()]
    for reports in (together, alone):
        for name, report in zip(requests, reports, strict=True):
            assert isinstance(report, Report), report
            found = [report.token_ids, *(other.token_ids for other in report.alternatives)]
            assert list(map(list, found)) == expected[name], name
    assert min(len({*ids}) for rows in expected.values() for ids in rows) >= 10


Change = Callable[[dict[str, Any], dict[str, Tensor]], None]
"""Changes model.yaml and the weights of the decoder of an archive."""


def serve_changed(archive: Path, change: Change) -> ReportGenerator:
    """The files of an archive, changed, served."""
    changed = archive.parent / change.__name__
    shutil.copytree(archive, changed)
    config = yaml.safe_load((changed / CONFIG).read_text(encoding="utf-8"))
    weights = load_file(changed / DECODER)
    change(config, weights)
    save_file(weights, changed / DECODER)
    (changed / CONFIG).write_text(yaml.safe_dump(config), encoding="utf-8")
    write_manifest(changed)
    return ReportGenerator.load(changed)
