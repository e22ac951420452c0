"""Score a model, or texts that another system wrote, and its baselines.

$ python -m training.evaluate models/demo DATA --format open_radiology --split val --sections report
$ python -m training.evaluate models/mine                # the test split of the data set that it was trained on
$ python -m training.evaluate models/mine annotation.json --format r2gen --images images
$ python -m training.evaluate theirs.json annotation.json --format r2gen            # ReXrank's JSON, or CSV: id,text
$ python -m training.evaluate baselines annotation.json --format r2gen              # the baselines alone
$ python -m training.evaluate models/mine rexrank.json --format rexrank --sections findings --rexrank out/sent.json

Prints Markdown; writes evaluation.md, evaluation.json, examples.png and predictions.csv. docs/evaluate.md says what
the figures mean, and to what they are blind.
"""

import argparse
import csv
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prelim.archive.archive import CONFIG
from prelim.errors import PrelimError
from prelim.networks.model_folder import read_model_folder
from terminal.arguments import CommandLine, positive
from terminal.program import sign_of_life
from training.datasets import FORMATS
from training.datasets.formats import rexrank
from training.datasets.study import SPLITS, DatasetError
from training.datasets.trained_on import TrainedOn, name_weights, read_trained_on
from training.evaluation.data import EvaluationData, read_data
from training.evaluation.examples_figure import plot_examples
from training.evaluation.metrics.optional import EXTRAS, extra_measures
from training.evaluation.metrics.r2gen import Protocol
from training.evaluation.metrics.template_captions import TemplateScorer
from training.evaluation.model_run import ModelRunner, Run
from training.evaluation.predictions import read_predictions, sort_predictions
from training.evaluation.systems import CONSTANT, Baselines, TableSection, baselines, evaluate
from training.evaluation.table import markdown
from training.settings import DatasetSettings, make_dataset_settings, read_dataset_settings

ALONE = "baselines"
"""Instead of a model: only the baselines."""

SPLITTING = ("splits", "val_fraction", "test_fraction", "split_seed", "patient_column", "patient_pattern")
"""Settings that decide which split a study is in."""


def main() -> None:
    """The command line."""
    arguments = _parse_arguments()
    try:
        _run(arguments)
    except PrelimError as error:
        sys.exit(str(error))


def _run(arguments: argparse.Namespace) -> None:
    folder = _find_model(arguments.model)
    trained_on = read_trained_on(folder) if folder else None
    source = make_source(arguments, trained_on)
    with sign_of_life("reading the data"):
        data = read_data(source, arguments.split, with_images=folder is not None, trained_on=trained_on)
    protocol = Protocol(data.train_texts, arguments.min_count, arguments.max_tokens)
    name, reports, run, others = _run_systems(arguments, folder, data, protocol)
    if folder and trained_on is None:
        others.notes.append(
            "The model folder does not say what it was trained on: that these studies were not among it is your word."
        )
    templates = None
    data_path = Path(source.path)
    if (data_path / "templates.json").is_file():
        templates = TemplateScorer.of_folder(data_path, data.studies, data.train)
    with sign_of_life("scoring"):
        learned, lacking = extra_measures(arguments.extras, {name: reports, **others.systems}, data.references)
        others.notes += lacking
        extras = [TableSection("metrics with networks of their own", learned)] if learned[name] else []
        result = evaluate(
            name,
            reports,
            data,
            protocol=protocol,
            others=others,
            run=run,
            templates=templates,
            extras=extras,
            draws=arguments.draws,
        )
    described = {"data": data_path.name, "format": source.format, "sections_scored": list(source.sections)}
    weights = name_weights(folder) if folder else {}
    _write(arguments, source, data, reports, {**described, **weights, **result})


def _find_model(path: Path) -> Path | None:
    """The model folder that is evaluated; None for predictions and the baselines alone."""
    if str(path) == ALONE or not path.is_dir():
        return None
    check_model_folder(path, f"a model folder, predictions (.json, .csv) or {ALONE!r}")
    return path


def check_model_folder(path: Path, wanted: str = "a model folder") -> None:
    """Raises DatasetError for what is not a model folder, before anything is read of a data set."""
    if not (path / CONFIG).is_file():
        raise DatasetError(f"{path} has no {CONFIG}; give {wanted}")


def make_source(arguments: argparse.Namespace, trained_on: TrainedOn | None) -> DatasetSettings:
    """The data set of the command line, of --config, or of the model folder.

    A model is scored with the splits of its training: where the format is that of the training, all settings are those
    of the model folder, and splits cannot be changed. A --config of another data set counts as it is.

    Raises DatasetError where the command line asks for other splits.
    """
    given: dict[str, Any] = {
        "path": str(arguments.data) if arguments.data else None,
        "format": arguments.format,
        "image_folder": str(arguments.images) if arguments.images else None,
        "sections": arguments.sections,
        "views": arguments.views,
        "split_seed": arguments.seed,
        "frame": arguments.frame,
    }
    given = {name: value for name, value in given.items() if value is not None}
    if arguments.config:
        given = {**dict(vars(read_dataset_settings(arguments.config, given)))}
    known = dict(trained_on.dataset) if trained_on else {}
    other = arguments.config and not (trained_on and trained_on.is_of(make_dataset_settings(given)))
    if trained_on and known and not other and given.get("format", known["format"]) == known["format"]:
        changed = [name for name in SPLITTING if name in given and given[name] != known.get(name)]
        if changed and not arguments.config:
            raise DatasetError(
                f"{changed[0]} is {given[changed[0]]}, the model was trained with {known[changed[0]]}; leave it out: a "
                "model is scored with the splits of its training"
            )
        chosen = {**known, **{key: value for key, value in given.items() if key not in SPLITTING}}
        if "image_folder" not in given and not trained_on.is_of(make_dataset_settings(chosen)):
            # Names of images of another data set must not be found among those of the training.
            chosen.pop("image_folder", None)
        return make_dataset_settings(chosen)
    if not {"path", "format"} <= given.keys():
        raise DatasetError(f"give the data set and its --format ({', '.join(FORMATS)}), or --config")
    return make_dataset_settings(given)


def _run_systems(
    arguments: argparse.Namespace, folder: Path | None, data: EvaluationData, protocol: Protocol
) -> tuple[str, Sequence[str], Run | None, Baselines]:
    """Name and reports of the system that is evaluated, what it gave if it is a model, and its baselines."""
    if folder is None and str(arguments.model) == ALONE:
        others = baselines(data, protocol, None, None)
        if not others.systems:
            raise DatasetError("there is nothing to evaluate: " + " ".join(others.notes))
        name = CONSTANT if CONSTANT in others.systems else next(iter(others.systems))
        return name, others.systems.pop(name), None, others
    if folder is None:
        reports = sort_predictions(read_predictions(arguments.model), data.studies, arguments.model)
        return arguments.model.stem, reports, None, baselines(data, protocol, None, None)
    model = read_model_folder(folder)
    runner = ModelRunner(model, arguments.slots, arguments.device, data.frame)
    run = runner.run([path for path in data.inputs if path is not None], data.references, prompts=data.prompts)
    return f"{model.config.name} {model.config.version}", run.reports, run, baselines(data, protocol, runner, run)


def _write(
    arguments: argparse.Namespace,
    source: DatasetSettings,
    data: EvaluationData,
    reports: Sequence[str],
    result: dict[str, object],
) -> None:
    out: Path = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    text = markdown(result)
    if "weights" in result:
        text += f"\n- These are figures of the weights with the sha256 {result['weights']}."
    (out / "evaluation.json").write_text(json.dumps(result, indent=1, ensure_ascii=False), encoding="utf-8")
    (out / "evaluation.md").write_text(text + "\n", encoding="utf-8")
    with (out / "predictions.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "text", "reference"])
        rows = zip(data.studies, reports, data.references, strict=True)
        writer.writerows([study.study_id, report, reference] for study, report, reference in rows)
    if arguments.rexrank is not None:
        original = Path(source.path) if source.format == "rexrank" else None
        rexrank.write(arguments.rexrank, data.studies, reports, original)
    shown = plot_examples(out / "examples.png", data, reports)
    print(text)
    print(f"\n{out}: evaluation.md, evaluation.json, predictions.csv" + (", examples.png" if shown else ""))
    if not shown:
        print("no examples.png: no image of these studies is on this disk")


def add_source_arguments(parser: CommandLine) -> None:
    """Arguments of a command line that `make_source` reads."""
    parser.add_argument("data", type=Path, nargs="?", help="file or folder of the data set (default: of its training)")
    parser.add_argument("--format", choices=FORMATS)
    parser.add_argument("--config", type=Path, help="YAML file whose section dataset describes the data set")
    parser.add_argument("--images", type=Path, help="folder that image names are relative to")
    parser.add_argument("--seed", type=int, help="of the splits, where neither the data set nor a training fixes them")
    parser.add_argument("--sections", nargs="+", help="what is written (default: findings and impression, else report)")
    parser.add_argument("--views", nargs="+", help="only images of these views, the first of each study")
    parser.add_argument("--frame", type=positive, help="of files with several frames or pages, counted from 1")


def _parse_arguments() -> argparse.Namespace:
    parser = CommandLine(__doc__)
    parser.add_argument("model", type=Path, help=f"model folder, predictions (.json, .csv), or {ALONE!r}")
    add_source_arguments(parser)
    parser.add_argument("--split", default="test", choices=SPLITS)
    parser.add_argument("--out", type=Path, default=Path("out/evaluation"), help="folder of the results")
    parser.add_argument("--rexrank", type=Path, help="JSON to write for ReXrank's leaderboard")
    parser.add_argument(
        "--min-count", type=positive, default=3, help="rarer words are <unk>, as R2Gen has it for IU X-Ray"
    )
    parser.add_argument(
        "--max-tokens", type=positive, default=60, help="R2Gen's max_seq_length: 60 for IU, 100 for MIMIC"
    )
    parser.add_argument("--extras", nargs="+", default=[], choices=EXTRAS, help="metrics with networks of their own")
    parser.add_argument("--draws", type=positive, default=2000, help="bootstrap draws")
    parser.add_argument("--slots", type=positive, default=16, help="images taken together")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    return parser.parse_args()


if __name__ == "__main__":
    main()
