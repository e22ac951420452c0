"""RadImageNet-VQA: parquet files of image, conversation and metadata (Hugging Face `raidium/RadImageNet-VQA`)."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from training.datasets.files import filled, split_named
from training.datasets.study import DatasetError, Study

MAGIC = {b"\x89PNG": ".png", b"\xff\xd8\xff": ".jpg", b"II*\x00": ".tif", b"MM\x00*": ".tif"}


def read(path: Path, images: Path | None) -> Iterator[Study]:
    """Read one parquet file or all of a folder; their names begin with the split: train-00000-of-00010.parquet.

    images : folder that the images of the rows read so far are written to, by the hash of their bytes: an image that
             several questions are about is written once, and what is there already is not written again

    The report is the last turn, the prompt the turn before it. The data set names no patients: an image is one.
    """
    if images is None:
        raise DatasetError(f"the images are inside {path}; give as images the folder to write them to (about its size)")
    files = sorted(path.rglob("*.parquet")) if path.is_dir() else [path]
    if not files or not files[0].is_file():
        raise DatasetError(f"{path} has no parquet files; give one, or a folder of them, as path")
    images.mkdir(parents=True, exist_ok=True)
    for file in files:
        split = split_named(file.name.split("-")[0].removesuffix(".parquet"), str(file))
        for i, row in enumerate(_rows(file)):
            yield _study(f"{file}, row {i}", f"{file.stem}-{i}", row, split, images)


def _rows(file: Path) -> Iterator[dict[str, Any]]:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        table = parquet.ParquetFile(file)
    except (pa.ArrowException, OSError) as error:
        raise DatasetError(f"{file} is no parquet file: {error}; fetch it again") from error
    missing = [name for name in ("image", "conversations") if name not in table.schema_arrow.names]
    if missing:
        found = ", ".join(table.schema_arrow.names)
        raise DatasetError(f"{file} has no column {', '.join(missing)}; its columns are: {found}")
    with tqdm(total=table.metadata.num_rows, desc=file.name, unit="row", delay=5) as bar:
        for batch in table.iter_batches(batch_size=16):
            for row in batch.to_pylist():
                yield row
                bar.update()


def _study(place: str, study_id: str, row: Mapping[str, Any], split: str, images: Path) -> Study:
    turns: Sequence[Mapping[str, str]] = row["conversations"] or ()
    if not turns:
        raise DatasetError(f"{place} has no turn in conversations; remove the row")
    data = (row["image"] or {}).get("bytes")
    if not data:
        raise DatasetError(f"{place} has no image bytes; fetch the parquet file with its images embedded")
    image = _write(data, images)
    metadata = {key: str(value) for key, value in (row.get("metadata") or {}).items() if value is not None}
    prompt = {"prompt": turns[-2]["value"]} if len(turns) > 1 else {}
    return Study(
        study_id=study_id,
        images=(image,),
        sections=filled({"report": turns[-1]["value"]}, place),
        patient_id=image.stem,
        views=("",),
        source="RadImageNet-VQA",
        split=split,
        labels=metadata | prompt,
    )


def _write(data: bytes, folder: Path) -> Path:
    suffix = next((suffix for magic, suffix in MAGIC.items() if data.startswith(magic)), ".bin")
    file = folder / f"{hashlib.sha256(data).hexdigest()[:32]}{suffix}"
    if not file.is_file():
        part = file.with_suffix(".part")
        part.write_bytes(data)
        part.replace(file)  # an interruption leaves no half image behind
    return file
