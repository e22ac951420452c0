"""Calibrate the confidence of a model's sentences, and measure how well it finds wrong ones.

$ python -m training.confidence models/demo DATA
$ python -m training.confidence models/mine                       # the data set that it was trained on
$ python -m training.confidence models/imported annotation.json --format r2gen --images images
$ python -m training.confidence models/demo DATA --measure        # writes no calibration

The model writes reports by its own options for studies that it has not been trained on. A sentence is wrong if its
findings are not those of the reference: by the templates of the data set where it has them, else by the labeler of
`training.evaluate`. Writes confidence.json into the model folder, its figures into confidence.json of --out and, where
the folder has a model card, into the card. `make archive` then builds an archive whose answers have `sentences`.
Make the input gate first: the confidence uses its distance.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np

from prelim.archive.archive import CONFIDENCE
from prelim.archive.encoder_config import AUTO
from prelim.encoding.gate import pool
from prelim.errors import ArchiveError, PrelimError
from prelim.generation.confidence import Inputs, read_sentences
from prelim.labels.labeler import Labeler
from prelim.networks.card_section import write_section
from prelim.networks.model_folder import MODEL_CARD, Model, hash_model, read_model_folder
from terminal.arguments import CommandLine, positive
from terminal.program import sign_of_life
from training.datasets.formats.open_radiology import TEMPLATES, read_templates
from training.datasets.study import SPLITS
from training.datasets.templates import LabelReader
from training.datasets.trained_on import name_weights, read_trained_on
from training.evaluate import add_source_arguments, check_model_folder, make_source
from training.evaluation.confidence import (
    IsWrong,
    Sentences,
    by_labeler,
    by_template,
    fit,
    markdown,
    mean_logprob,
    measure,
)
from training.evaluation.data import EvaluationData, read_data
from training.evaluation.encoding import served_vision
from training.evaluation.metrics.template_captions import labels_of
from training.evaluation.model_run import ModelRunner


def judges(data: EvaluationData, folder: Path) -> list[IsWrong]:
    """What tells of each study which sentences are wrong."""
    if (folder / TEMPLATES).is_file():
        reader = LabelReader(read_templates(folder))
        return [by_template(reader, labels_of(study)) for study in data.studies]
    labeler = Labeler()
    return [by_labeler(labeler, reference) for reference in data.references]


def read(model: Model, data: EvaluationData, folder: Path, arguments: argparse.Namespace) -> Sentences:
    """Write the reports of all studies, and judge the sentences that have findings."""
    runner = ModelRunner(model, arguments.slots, arguments.device, data.frame, model.config.precision)
    run = runner.run([path for path in data.inputs if path is not None], data.references, prompts=data.prompts)
    distances = None if model.gate is None else model.gate.distance(pool(run.features.numpy())).tolist()
    inputs: list[Inputs] = []
    wrong, units = [], []
    studies = zip(data.studies, run.reports, run.written, judges(data, folder), strict=True)
    for i, (study, report, hypothesis, is_wrong) in enumerate(studies):
        distance = None if distances is None else distances[i]
        for sentence, of_sentence in read_sentences(
            report, hypothesis, runner.detokenize, distance, runner.places(hypothesis)
        ):
            if (judged := is_wrong(sentence)) is not None:
                inputs.append(of_sentence)
                wrong.append(judged)
                units.append(study.unit)
    return Sentences(inputs, wrong, units)


def _run(arguments: argparse.Namespace) -> None:
    folder: Path = arguments.model
    check_model_folder(folder)
    trained_on = read_trained_on(folder)
    source = make_source(arguments, trained_on)
    model = read_model_folder(folder, calibrated=arguments.measure)
    if model.config.precision == AUTO:
        raise ArchiveError(f"precision is {AUTO}; a calibration is of one precision: name it in model.yaml")
    with sign_of_life("reading the data"):
        data = read_data(source, arguments.split, with_images=True, trained_on=trained_on)
    model.network.vision = served_vision(model.config, model.network.vision, arguments.archive)
    sentences = read(model, data, Path(source.path), arguments)
    sentences.check()
    names = sentences.inputs
    logprobs = [mean_logprob(dict(zip(names, values, strict=True))) for values in sentences.values.tolist()]
    measured = measure(sentences, logprobs)
    text = markdown(measured)
    if not arguments.measure:
        fit(sentences, np.arange(len(sentences.wrong)), hash_model(folder, model.config)).write(folder / CONFIDENCE)
        if (folder / MODEL_CARD).is_file():
            write_section(folder / MODEL_CARD, "confidence", text)
    arguments.out.mkdir(parents=True, exist_ok=True)
    result = {**name_weights(folder), **measured}
    (arguments.out / "confidence.json").write_text(json.dumps(result, indent=1), encoding="utf-8")
    print(text)


def main() -> None:
    """The command line."""
    parser = CommandLine(__doc__)
    parser.add_argument("model", type=Path, help="model folder")
    add_source_arguments(parser)
    parser.add_argument("--split", default="val", choices=SPLITS, help="of the data set")
    parser.add_argument("--archive", type=Path, help="of the model, where its encoder is not served in fp32")
    parser.add_argument("--measure", action="store_true", help="write no calibration, measure what one tells")
    parser.add_argument("--slots", type=positive, default=16, help="reports written together")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--out", type=Path, default=Path("out/evaluation"), help="folder of the figures")
    try:
        _run(parser.parse_args())
    except PrelimError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
