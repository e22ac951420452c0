"""Score a model, or texts that another system wrote, beside its baselines.

$ python -m training.evaluate models/demo ../shared/data/open_radiology --format open_radiology --split val
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

from prelim.archive.archive import CONFIG
from prelim.errors import PrelimError
from prelim.networks.model_folder import read_model_folder
from training.datasets import FORMATS
from training.datasets.formats import rexrank
from training.datasets.study import SPLITS, DatasetError
from training.evaluation.data import EvaluationData, read_data
from training.evaluation.examples_figure import plot_examples
from training.evaluation.metrics.optional import EXTRAS, extra_measures
from training.evaluation.metrics.r2gen import Protocol
from training.evaluation.metrics.template_captions import TemplateScorer
from training.evaluation.model_run import ModelRunner, Run
from training.evaluation.predictions import in_order, read_predictions
from training.evaluation.systems import CONSTANT, Baselines, Section, baselines, evaluate
from training.evaluation.table import markdown

ALONE = "baselines"
"""In the place of a model: nothing but the baselines."""


def main() -> None:
    """The command line."""
    arguments = _arguments()
    try:
        _run(arguments)
    except (PrelimError, DatasetError) as error:
        sys.exit(str(error))


def _run(arguments: argparse.Namespace) -> None:
    data = read_data(
        arguments.format, arguments.data, arguments.split, arguments.sections, arguments.images, seed=arguments.seed
    )
    protocol = Protocol(data.train_texts, arguments.min_count, arguments.max_tokens)
    name, reports, run, others = _systems(arguments, data, protocol)
    templates = None
    if (arguments.data / "templates.json").is_file():
        templates = TemplateScorer.of_folder(arguments.data, data.studies, data.train)
    learned, lacking = extra_measures(arguments.extras, {name: reports, **others.systems}, data.references)
    others.notes += lacking
    extras = [Section("metrics with networks of their own", learned)] if learned[name] else []
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
    result = {"data": arguments.data.name, "format": arguments.format, "sections_scored": arguments.sections, **result}
    _write(arguments, data, reports, result)


def _systems(
    arguments: argparse.Namespace, data: EvaluationData, protocol: Protocol
) -> tuple[str, Sequence[str], Run | None, Baselines]:
    """Name and reports of the system that is evaluated, what it gave if it is a model, and its baselines."""
    source: Path = arguments.model
    if str(source) == ALONE:
        others = baselines(data, protocol, None, None)
        if not others.systems:
            raise DatasetError("there is nothing to evaluate: " + " ".join(others.notes))
        name = CONSTANT if CONSTANT in others.systems else next(iter(others.systems))
        return name, others.systems.pop(name), None, others
    if not source.is_dir():
        reports = in_order(read_predictions(source), data.studies, source)
        return source.stem, reports, None, baselines(data, protocol, None, None)
    if not (source / CONFIG).is_file():
        raise DatasetError(f"{source} has no {CONFIG}; give a model folder, predictions (.json, .csv) or {ALONE!r}")
    lacking = [study.study_id for study in data.studies if not study.images or not study.images[0].is_file()]
    if lacking:
        raise DatasetError(
            f"{len(lacking)} of {len(data.studies)} studies have no image on this disk, such as {lacking[0]!r}; "
            "name the folder of the images with --images"
        )
    model = read_model_folder(source)
    runner = ModelRunner(model, arguments.slots, arguments.device)
    run = runner.run([study.images[0] for study in data.studies], data.references)
    return f"{model.config.name} {model.config.version}", run.reports, run, baselines(data, protocol, runner, run)


def _write(
    arguments: argparse.Namespace, data: EvaluationData, reports: Sequence[str], result: dict[str, object]
) -> None:
    out: Path = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    text = markdown(result)
    (out / "evaluation.json").write_text(json.dumps(result, indent=1, ensure_ascii=False), encoding="utf-8")
    (out / "evaluation.md").write_text(text + "\n", encoding="utf-8")
    with (out / "predictions.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "text", "reference"])
        rows = zip(data.studies, reports, data.references, strict=True)
        writer.writerows([study.study_id, report, reference] for study, report, reference in rows)
    if arguments.rexrank is not None:
        source = arguments.data if arguments.format == "rexrank" else None
        rexrank.write(arguments.rexrank, data.studies, reports, source)
    shown = plot_examples(out / "examples.png", data.studies, data.references, reports)
    print(text)
    print(f"\n{out}: evaluation.md, evaluation.json, predictions.csv" + (", examples.png" if shown else ""))
    if not shown:
        print("no examples.png: no image of these studies is on this disk")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help=f"model folder, predictions (.json, .csv), or {ALONE!r}")
    parser.add_argument("data", type=Path, help="file or folder of the data set")
    parser.add_argument("--format", required=True, choices=FORMATS)
    parser.add_argument("--images", type=Path, help="folder that image names are relative to")
    parser.add_argument("--split", default="test", choices=SPLITS)
    parser.add_argument("--seed", type=int, default=0, help="of the splits, where the data set fixes none")
    parser.add_argument(
        "--sections", nargs="+", default=["report"], help="what is written, such as findings impression"
    )
    parser.add_argument("--out", type=Path, default=Path("out/evaluation"), help="folder of the results")
    parser.add_argument("--rexrank", type=Path, help="JSON to write for ReXrank's leaderboard")
    parser.add_argument("--min-count", type=int, default=3, help="rarer words are <unk>, as R2Gen has it for IU X-Ray")
    parser.add_argument("--max-tokens", type=int, default=60, help="R2Gen's max_seq_length: 60 for IU, 100 for MIMIC")
    parser.add_argument("--extras", nargs="+", default=[], choices=EXTRAS, help="metrics with networks of their own")
    parser.add_argument("--draws", type=int, default=2000, help="bootstrap draws")
    parser.add_argument("--slots", type=int, default=16, help="images taken together")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    return parser.parse_args()


if __name__ == "__main__":
    main()
