"""Run the vision encoder of an archive over a data set, once, and keep what it gives.

$ make archive MODEL=models/mine
$ python -m training.extract_features model_store/mine.mar --format pairs --data DATA --out features/iu
$ python -m training.extract_features model_store/mine.mar --config CONFIG.yaml --out features/iu     # its dataset
$ python -m training.train CONFIG.yaml start.weights=models/mine dataset.features=features/iu

Can be stopped at any time; the same command continues, and adds images that are new in the data set.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from prelim.archive.archive import VISION, Archive
from prelim.decoders.weights_file import write_weights
from prelim.encoding.network_session import open_vision
from prelim.errors import InputError, PrelimError
from prelim.images.preprocess import preprocess
from terminal.arguments import CommandLine, positive
from training.data.features import INDEX, TENSOR, encoder_of, name_image, read_index
from training.datasets.pictures import read_picture
from training.datasets.source import Source, read_source
from training.datasets.study import DatasetError
from training.evaluation.encoding import open_archive
from training.settings import make_dataset_settings, read_dataset_settings


def extract(
    archive: Archive,
    images: Sequence[Path],
    source: Source,
    out: Path,
    *,
    batch: int,
    shard: int,
    options: dict[str, Any],
) -> list[str]:
    """Write the features of images that have none yet: float32 shards, and an index after each of them.

    source  : the data set of the images, whose folder they are named from, and which frame of them counts
    batch   : images that are encoded together
    shard   : images in one file
    options : of open_vision
    returns : names of the images that cannot be read, with the reason

    Raises DatasetError where `out` has features of another encoder, ArchiveError for pictures of several sizes.
    """
    out.mkdir(parents=True, exist_ok=True)
    root = source.image_root
    vision = archive.files[VISION]
    index: dict[str, Any] = {"encoder": encoder_of(archive.config), "vision_sha256": vision, "images": {}}
    archive.config.preprocess.check_one_size("the extraction of features")
    if (out / INDEX).exists():
        index = read_index(out)
        if index["vision_sha256"] != vision:
            raise DatasetError(f"{out / INDEX} is of another vision encoder; give another --out, or delete the folder")
    session = open_vision(archive.folder / VISION, archive.config.served_encoder, packed=True, **options)
    todo = [image for image in dict.fromkeys(images) if name_image(image, root) not in index["images"]]
    bar = tqdm(total=len(images), initial=len(images) - len(todo), unit="image", desc="extracting features")
    failed: list[str] = []
    with bar:
        for start in range(0, len(todo), shard):
            part = todo[start : start + shard]
            names: list[str] = []
            features: list[np.ndarray] = []
            for first in range(0, len(part), batch):
                pixels = []
                for image in part[first : first + batch]:
                    try:
                        radiograph = read_picture(image, archive.config.input, source.frame)
                    except (OSError, InputError) as error:
                        failed.append(f"{image}: {error}")
                        continue
                    pixels.append(preprocess(radiograph, archive.config.preprocess))
                    names.append(name_image(image, root))
                if pixels:
                    features.append(session.run(torch.from_numpy(np.stack(pixels))).cpu().numpy())
                bar.update(len(part[first : first + batch]))
            if features:
                _write_shard(out, index, names, np.concatenate(features))
    return failed


def _write_shard(out: Path, index: dict[str, Any], names: Sequence[str], features: np.ndarray) -> None:
    """A shard, then the index that names it: a stop in between leaves a shard that is written again."""
    file = f"features-{len({shard for shard, _ in index['images'].values()}):05d}.safetensors"
    write_weights(out / file, {TENSOR: torch.from_numpy(features)})
    index["images"] |= {name: [file, row] for row, name in enumerate(names)}
    part = out / f"{INDEX}.part"
    part.write_text(json.dumps(index), encoding="utf-8")
    part.replace(out / INDEX)


def _make_source(given: argparse.Namespace) -> Source:
    """The data set of the command line or of --config. Raises DatasetError and SettingsError."""
    words = {"format": given.format, "path": given.data, "image_folder": given.images, "frame": given.frame}
    named = {name: value for name, value in words.items() if value is not None}
    if given.config:
        return read_dataset_settings(given.config, named)
    if not {"format", "path"} <= named.keys():
        raise DatasetError("give --format and --data, or --config with a section dataset")
    return make_dataset_settings(named)


def main() -> None:
    """The command line."""
    parser = CommandLine(__doc__)
    parser.add_argument("archive", type=Path, help="a .mar file, or the folder that it is unpacked in")
    parser.add_argument("--config", type=Path, help="YAML file whose section dataset describes the data set")
    parser.add_argument("--format", help="of the data set, as in dataset.format")
    parser.add_argument("--data", help="file or folder of the data set, as in dataset.path")
    parser.add_argument("--images", help="folder of the images, as in dataset.image_folder")
    parser.add_argument("--frame", type=positive, help="of files with several frames, as in dataset.frame")
    parser.add_argument("--out", type=Path, required=True, help="folder of the features")
    parser.add_argument("--batch", type=positive, default=16, help="images that are encoded together")
    parser.add_argument("--shard", type=positive, default=1024, help="images in one file")
    parser.add_argument("--threads", type=positive, default=1, help="of ONNX Runtime")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    given = parser.parse_args()
    try:
        source = _make_source(given)
        images = [image for study in read_source(source) for image in source.choose_images(study)]
        options = {"device": given.device, "threads": given.threads}
        with open_archive(given.archive) as archive:
            failed = extract(archive, images, source, given.out, batch=given.batch, shard=given.shard, options=options)
    except PrelimError as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit(f"stopped; the same command continues. The features so far are in {given.out}")
    for line in failed:
        print(f"left out: {line}", file=sys.stderr)
    print(f"{given.out}: features of {len(read_index(given.out)['images'])} images, {len(failed)} left out")
    if failed:
        sys.exit(1)


if __name__ == "__main__":
    main()
