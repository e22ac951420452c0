"""Make the input gate of a model, and measure what it refuses.

$ python -m training.gate models/demo DATA
$ python -m training.gate models/mine                       # the data set that it was trained on
$ python -m training.gate models/imported annotation.json --format r2gen --images images
$ python -m training.gate models/demo DATA --covid COVID --iu IU      # radiographs of other sources too
$ python -m training.gate models/demo DATA --measure                  # measures the gate that is there

Writes gate.safetensors into the model folder, its figures into gate.json (--out) and, where the folder has a model
card, into the card. `make archive` then builds an archive that refuses images unlike those of the training;
`input.unlike_training` in model.yaml changes that to a warning, or to nothing.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from prelim.archive.archive import GATE, WEIGHTS
from prelim.archive.model_config import ModelConfig
from prelim.decoders.weights_file import read_weights
from prelim.encoding.gate import Gate, hash_encoder, pool, read_gate
from prelim.errors import PrelimError
from prelim.networks.card_section import write_section
from prelim.networks.model_folder import MODEL_CARD, read_network
from terminal.arguments import CommandLine, positive
from terminal.program import sign_of_life
from training.datasets.pictures import read_picture
from training.datasets.source import Source, drop_missing_images, load_studies
from training.datasets.study import DatasetError, Study
from training.datasets.trained_on import name_weights, read_trained_on, split_known
from training.evaluate import add_source_arguments, check_model_folder, make_source
from training.evaluation.encoding import ServedEncoder, served_vision
from training.evaluation.external import read_known, read_other_radiographs
from training.evaluation.foreign_images import write_altered_images, write_foreign_images
from training.evaluation.input_gate import (
    describe_kind,
    estimate_false_refusals,
    fit,
    leave_out,
    markdown,
    set_limit,
)

MOST_TRAIN, MOST_VAL = 20_000, 5_000
"""Images that are used: more change neither the statistics nor the limit."""

ALTERED = 100
"""Validation images that are altered, at most."""

SMALLEST = 10
"""Validation images of a kind that is left out in turn, at least."""


def choose(studies: Sequence[Study], source: Source, most: int) -> list[tuple[Path, Study]]:
    """At most so many images, or files with features, each with its study; drawn if there are more."""
    there, _ = drop_missing_images(studies, source)
    images = [
        (image, study)
        for study in there
        for image in source.choose_images(study) or ([study.features] if study.features else [])
    ]
    if len(images) <= most:
        return images
    chosen = np.random.default_rng(0).permutation(len(images))[:most]
    return [images[i] for i in sorted(chosen)]


def read_images(model: Path, source: Source) -> tuple[list[tuple[Path, Study]], list[tuple[Path, Study]]]:
    """Training and validation images with their studies.

    Raises DatasetError where there are none of either that the model has not been trained on.
    """
    parts: dict[str, list[Study]] = {"train": [], "val": [], "test": []}
    for study in load_studies(source):
        parts[study.split or "train"].append(study)
    trained_on = read_trained_on(model)
    val = parts["val"]
    if trained_on is not None:
        val, _, _ = split_known(parts, "val", source, trained_on)
    images = choose(parts["train"], source, MOST_TRAIN), choose(val, source, MOST_VAL)
    for name, found in zip(("train", "val"), images, strict=True):
        if not found:
            raise DatasetError(f"{source.path} has no image of split {name!r} to make a gate of")
    return images


def kind_of(study: Study) -> str:
    """What kind of picture a study has: modality and anatomy where the data set says them, else its source."""
    named = [study.labels[name] for name in ("anatomy", "modality") if study.labels.get(name)]
    return " ".join(named) or study.source


def measure(
    gate: Gate,
    features: tuple[np.ndarray, np.ndarray],
    kinds: tuple[Sequence[str], Sequence[str]],
    *,
    units: Sequence[str],
    rate: float,
    outside: Mapping[str, Mapping[str, np.ndarray]],
) -> dict[str, Any]:
    """What the gate refuses.

    features, kinds : of training and validation images
    units           : patients of the validation images
    outside         : features of other images by title and kind
    """
    inside = gate.distance(features[1])
    described = {
        title: {kind: describe_kind(inside, gate.distance(values)) for kind, values in found.items()}
        for title, found in outside.items()
    }
    described["left out in turn"] = leave_out((features[0], kinds[0]), (features[1], kinds[1]), rate, SMALLEST)
    return {
        "rate": rate,
        "train": len(features[0]),
        "val": len(features[1]),
        "rank": len(gate.directions),
        "bytes": sum(values.nbytes for values in vars(gate).values()),
        "false_refusals": estimate_false_refusals(inside, units, rate),
        "kinds": {title: found for title, found in described.items() if found},
    }


def encode_others(
    encoder: ServedEncoder,
    pictures: Sequence[Path],
    read: Callable[[Path], Image.Image],
    others: Mapping[str, list[Path]],
) -> dict[str, dict[str, np.ndarray]]:
    """Features of images that the gate is tried on, by title and kind.

    pictures : validation images, some of which are altered
    read     : a picture as it is rendered
    others   : further images by kind
    """
    with tempfile.TemporaryDirectory(prefix="prelim-") as temporary:
        foreign = write_foreign_images(Path(temporary))
        chosen = np.random.default_rng(0).permutation(len(pictures))[:ALTERED]
        altered = write_altered_images(Path(temporary), {pictures[i]: read(pictures[i]) for i in sorted(chosen)})
        titles = {"no radiology": foreign, "validation images, altered": altered, "other radiology": others}
        found = {
            title: {kind: pool(encoder.means(paths, kind)) for kind, paths in kinds.items() if paths}
            for title, kinds in titles.items()
        }
    found["no radiology"]["all of these"] = np.concatenate(list(found["no radiology"].values()))
    return found


def _picture(path: Path, config: ModelConfig, frame: int) -> Image.Image:
    pixels = read_picture(path, config.input, frame).pixels
    return Image.fromarray(np.rint(255 * pixels).astype(np.uint8))


def _run(arguments: argparse.Namespace) -> None:
    model: Path = arguments.model
    check_model_folder(model)
    source = make_source(arguments, read_trained_on(model))
    config, network = read_network(model, decoder_as_stored=True)
    with sign_of_life("reading the data"):
        data = read_images(model, source)
        others = {}
        if arguments.covid and arguments.iu:
            others = read_other_radiographs(arguments.covid, arguments.iu, read_known(Path(source.path)))
    # A CPU convolves twice as fast with this layout.
    vision = served_vision(config, network.vision.to(memory_format=torch.channels_last), arguments.archive)
    encoder = ServedEncoder(vision, config, arguments.slots, arguments.device, source.frame)
    train, val = (pool(encoder.means([image for image, _ in images])) for images in data)
    path = model / GATE
    if not arguments.measure:
        gate = fit(train, hash_encoder(config, read_weights(model / WEIGHTS)))
        set_limit(gate, val, arguments.rate).write(path)
    pictures = [image for image, _ in data[1] if image.suffix != ".json"]
    outside = encode_others(encoder, pictures, lambda image: _picture(image, config, source.frame), others)
    measured = measure(
        read_gate(path),
        (train, val),
        ([kind_of(study) for _, study in data[0]], [kind_of(study) for _, study in data[1]]),
        units=[study.unit for _, study in data[1]],
        rate=arguments.rate,
        outside=outside,
    )
    arguments.out.mkdir(parents=True, exist_ok=True)
    result = {**name_weights(model), **measured}
    (arguments.out / "gate.json").write_text(json.dumps(result, indent=1), encoding="utf-8")
    text = markdown(measured)
    if not arguments.measure and (model / MODEL_CARD).is_file():
        write_section(model / MODEL_CARD, "input gate", text)
    print(text)
    print(f"\n{path}: {measured['bytes'] / 1e6:.2f} MB")


def main() -> None:
    """The command line."""
    parser = CommandLine(__doc__)
    parser.add_argument("model", type=Path, help="model folder")
    add_source_arguments(parser)
    parser.add_argument("--rate", type=float, default=0.01, help="false refusals that the limit is set for")
    parser.add_argument("--covid", type=Path, help="folder of covid-chestxray, with --iu: radiographs of other sources")
    parser.add_argument("--iu", type=Path, help="folder of IU X-ray")
    parser.add_argument("--archive", type=Path, help="of the model, where its encoder is not served in fp32")
    parser.add_argument("--measure", action="store_true", help="write no gate, measure the one that is there")
    parser.add_argument("--slots", type=positive, default=16, help="images encoded together")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--out", type=Path, default=Path("out/evaluation"), help="folder of gate.json")
    arguments = parser.parse_args()
    if not 0 < arguments.rate < 0.5:
        parser.error(f"--rate is {arguments.rate}; allowed: above 0 and below 0.5")
    try:
        _run(arguments)
    except PrelimError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
