"""Score a model folder beside its baselines.

$ python -m training.evaluate models/demo --data ../shared/data/open_radiology --split val
$ python -m training.evaluate models/demo --data ... --split val --json out/val.json --captions out/val_captions.csv

Prints Markdown, writes JSON. Nothing is compared with the text alone: the labels are read back from the caption,
because six captions are right for every picture.
"""

import argparse
import csv
import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from model_src.errors import PrelimError
from model_src.model_folder import Model, read_model_folder
from training.baselines import best_constant_caption, most_frequent_caption, pixel_vectors, retrieved_captions
from training.captioning import caption_images
from training.datasets.open_radiology import DatasetError, Record, read_records, read_templates
from training.labels import LabelReader, Labels
from training.scores import by_kind, cider, intervals, label_scores

COMMON = 20
"""Distinct captions are counted over the pictures of this many label combinations, the commonest of training."""


def evaluate(
    model: Model, train: Sequence[Record], records: Sequence[Record], templates: Mapping[Labels, Sequence[str]]
) -> tuple[dict[str, Any], dict[str, list[str]]]:
    """Scores of the model and of its baselines, and the captions of each, in the order of `records`."""
    written, features = caption_images(model.network, model.tokenizer, model.config, [r.image for r in records])
    _, train_features = caption_images(model.network, model.tokenizer, model.config, [r.image for r in train])
    frequent = most_frequent_caption(train)
    best = best_constant_caption(train, [[record.caption] for record in records])
    pixels = retrieved_captions(pixel_vectors(records), pixel_vectors(train), train)
    systems = {
        "model": written,
        "constant: most frequent training caption": [frequent] * len(records),
        "constant: best training caption": [best] * len(records),
        "nearest training picture, 32 x 32 pixels": pixels,
        "nearest training picture, this model's image features": retrieved_captions(features, train_features, train),
    }
    common = {labels for labels, _ in Counter(record.labels for record in train).most_common(COMMON)}
    scores = {name: score(captions, records, templates, common) for name, captions in systems.items()}
    reader = LabelReader(templates)
    scores["model"]["intervals"] = intervals([reader.read(caption)[0] for caption in written], records)
    return {
        "images": len(records),
        "example": written[0],
        "captions": {"frequent": frequent, "best": best},
        "systems": scores,
    }, systems


def score(
    captions: Sequence[str],
    records: Sequence[Record],
    templates: Mapping[Labels, Sequence[str]],
    common: set[Labels],
) -> dict[str, Any]:
    """All scores of one system."""
    reader = LabelReader(templates)
    read = [reader.read(caption) for caption in captions]
    said = [labels for labels, _ in read]
    return {
        **label_scores(said, records),
        "by_kind": by_kind(said, records),
        "not_a_template": sum(not exact for _, exact in read),
        "cider_given_caption": cider(captions, [[record.caption] for record in records]),
        "cider_six_captions": cider(captions, [templates[record.labels] for record in records]),
        "distinct": len(set(captions)),
        "distinct_common": len({c for c, r in zip(captions, records, strict=True) if r.labels in common}),
    }


COLUMNS = {
    "modality_anatomy": "modality, anatomy",
    "modality_anatomy_view": "and view",
    "finding_group": "finding group",
    "all_labels": "all labels",
    "cider_given_caption": "CIDEr, given caption",
    "cider_six_captions": "CIDEr, six captions",
    "distinct": "distinct captions",
    "distinct_common": f"of them for the {COMMON} commonest labels",
}


def markdown(result: Mapping[str, Any]) -> str:
    """Two tables: systems against scores, and kinds of picture against systems."""
    systems = result["systems"]
    lines = [f"| | {' | '.join(COLUMNS.values())} |", "|---" * (len(COLUMNS) + 1) + "|"]
    for name, scores in systems.items():
        lines.append(f"| {name} | {' | '.join(_cell(scores[column]) for column in COLUMNS)} |")
    limits = systems["model"]["intervals"]
    row = [f"{limits[c][0]:.3f} to {limits[c][1]:.3f}" if c in limits else "" for c in COLUMNS]
    lines.append(f"| model, 95 % interval | {' | '.join(row)} |")
    lines += ["", f"| finding group right | pictures | {' | '.join(systems)} |", "|---" * (len(systems) + 2) + "|"]
    for kind, first in systems["model"]["by_kind"].items():
        cells = [_cell(scores["by_kind"][kind]["finding_group"]) for scores in systems.values()]
        lines.append(f"| {kind} | {first['images']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(value: float) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="model folder")
    parser.add_argument("--data", type=Path, required=True, help="folder of open_radiology")
    parser.add_argument("--split", default="val")
    parser.add_argument("--json", type=Path, default=Path("out/evaluation.json"))
    parser.add_argument("--captions", type=Path, help="CSV to write: image, given caption, generated caption")
    arguments = parser.parse_args()
    try:
        model = read_model_folder(arguments.model)
        train, records = read_records(arguments.data, "train"), read_records(arguments.data, arguments.split)
        result, systems = evaluate(model, train, records, read_templates(arguments.data))
    except (PrelimError, DatasetError) as error:
        sys.exit(str(error))
    result = {"model": model.config.name, "version": model.config.version, "split": arguments.split, **result}
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps(result, indent=1), encoding="utf-8")
    if arguments.captions:
        with arguments.captions.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["image", "given", "generated"])
            for record, caption in zip(records, systems["model"], strict=True):
                writer.writerow([record.image.name, record.caption, caption])
    print(markdown(result))


if __name__ == "__main__":
    main()
