"""RadImageNet-VQA: parquet files of image, conversation and metadata (Hugging Face `raidium/RadImageNet-VQA`)."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm

from training.datasets.files import PROMPT, keep_texts
from training.datasets.image_files import write_image
from training.datasets.membership import Membership, read_membership
from training.datasets.split_names import SplitReader, name_split
from training.datasets.study import DatasetError, Study
from training.datasets.study_rows import pair_turns


def read(path: Path, images: Path | None) -> Iterator[Study]:
    """Read one parquet file or all of a folder; their names begin with the split: train-00000-of-00010.parquet.

    images : folder that the images of the rows read so far are written to, by the hash of their bytes: an image that
             several questions are about is written once, and what is there already is not written again

    Every question with its answer is a study. The questions about one image are a group. Patients are unknown unless a
    column or a key of the metadata names them.
    """
    if images is None:
        raise DatasetError(f"the images are inside {path}; give as images the folder to write them to (about its size)")
    files = sorted(path.rglob("*.parquet")) if path.is_dir() else [path]
    if not files or not files[0].is_file():
        raise DatasetError(f"{path} has no parquet files; give one, or a folder of them, as path")
    splits = SplitReader()
    for file in files:
        split = name_split(file.name.split("-")[0].removesuffix(".parquet"), str(file))
        name = (file.relative_to(path) if path.is_dir() else Path(file.name)).with_suffix("").as_posix()
        for i, row in enumerate(_read_rows(file)):
            place = f"{file}, row {i}"
            own = read_membership({**row, **(row.get("metadata") or {})}, place, splits)
            member = own._replace(split=own.split or split)
            yield from _make_studies(place, f"{name}-{i}", row, member, images)


def _read_rows(file: Path) -> Iterator[dict[str, Any]]:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        table = parquet.ParquetFile(file)
    except (pa.ArrowException, OSError) as error:
        raise DatasetError(f"{file} is not a parquet file: {error}; fetch it again") from error
    missing = [name for name in ("image", "conversations") if name not in table.schema_arrow.names]
    if missing:
        found = ", ".join(table.schema_arrow.names)
        raise DatasetError(f"{file} has no column {', '.join(missing)}; its columns are: {found}")
    with tqdm(total=table.metadata.num_rows, desc=file.name, unit="row", delay=5) as bar:
        try:
            for batch in table.iter_batches(batch_size=16):
                for row in batch.to_pylist():
                    yield row
                    bar.update()
        except (pa.ArrowException, OSError) as error:
            raise DatasetError(f"{file} is not a complete parquet file: {error}; fetch it again") from error


def _make_studies(place: str, name: str, row: Mapping[str, Any], member: Membership, images: Path) -> Iterator[Study]:
    # Hugging Face keeps an image as {"bytes", "path"}; other programs write the bytes alone.
    data = row["image"]["bytes"] if isinstance(row["image"], dict) else row["image"]
    if not isinstance(data, bytes) or not data:
        raise DatasetError(f"{place} has no image bytes; fetch the parquet file with its images embedded")
    image = write_image(data, images)
    metadata = {key: str(value) for key, value in (row.get("metadata") or {}).items() if value is not None}
    turns = list(pair_turns(place, row["conversations"]))
    for number, (question, answer) in enumerate(turns):
        yield Study(
            study_id=name if len(turns) == 1 else f"{name}-{number}",
            images=(image,),
            sections=keep_texts({"report": answer}, place, answers=True),
            patient_id=member.patient_id,
            views=("",),
            source="RadImageNet-VQA",
            split=member.split,
            labels=metadata | ({PROMPT: question} if question else {}),
            group=image.stem,
            place=place,
        )
