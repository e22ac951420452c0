"""Writes the MODEL_CARD.md of an imported model, with gaps for what only its owner can fill in."""

import hashlib
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from tqdm import tqdm

from export.checkpoints.import_source import ImportSource
from export.checkpoints.record import ImportRecord
from prelim.archive.archive import CONFIG
from prelim.decoders.weights_file import PROGRESS_FROM, Weights
from prelim.networks.architectures.architecture import Published
from prelim.networks.card_section import GAP
from prelim.networks.model_folder import MODEL_CARD
from prelim.networks.terms import describe_terms
from prelim.report import NOTICE

SHOWN_KEYS = 3
"""Maximum number of ignored keys listed for each reason."""

CARD = """# {name} {version}

Writes the report of a radiology image. Imported from a checkpoint; this page has no scores, because none were measured.

**{notice}** How often its reports are wrong is unknown.

## What it is

Architecture `{architecture}` of this project, after {origin}.
`python -m tests.parity` compares the architecture's code with recorded outputs of the original code, but not with these
weights. {parameters:,} parameters, stored as {dtypes}.

## Terms

<!-- terms -->
{terms}
<!-- end of terms -->

## Intended use

Evaluation, research and teaching: its reports are drafts that a person compares with the image. Any other use needs
its own validation first.

{gap} intended users, and uses to exclude.

## Source files

| file | bytes | sha256 |
|---|---|---|
{files}

{notes}

Keys of the checkpoint that were ignored:

{ignored}

Not in these files, and not checked:

{assumed}

## Confidence

<!-- confidence -->
This model is not calibrated: its answers have no confidence.
<!-- end of confidence -->

## What was fixed

Bugs of the original code that this project does not reproduce:

{fixed}

## Image preprocessing

```yaml
{images}
```

## Default prompt and decoding options

```yaml
{decoding}
```

## Training data

{gap} sources and their licenses, number of studies and patients; population, devices and views; the splits, and whether
any patient is in more than one; how reports were cleaned.

## Evaluation

{gap} scores on patients outside the training data, each with the score of a constant report (the same text for every
image) on the same studies. Do not publish a score without that baseline.

## Known limits

{gap} images, findings and patients on which it fails.
"""


def write_card(
    folder: Path, published: Published, weights: Weights, record: ImportRecord, sources: Sequence[ImportSource]
) -> None:
    """Write MODEL_CARD.md into a model folder that has a model.yaml; an existing card is not overwritten.

    weights : of the model
    record  : of the import
    sources : of weights and tokenizer; all their files are hashed
    """
    path = folder / MODEL_CARD
    if path.exists():
        print(f"{path} already exists and is not overwritten")
        return
    config: Mapping[str, Any] = yaml.safe_load((folder / CONFIG).read_text(encoding="utf-8"))
    dtypes = Counter(str(tensor.dtype).removeprefix("torch.") for tensor in weights.values())
    rows = [
        f"| {source.file_label(file)} | {file.stat().st_size:,} | {_sha256(file)} |"
        for source in sources
        for file in source.files
    ]
    text = CARD.format(
        **{key: config[key] for key in ("name", "version", "architecture")},
        terms=describe_terms(config["licence"], config["use"], folder),
        notice=NOTICE,
        gap=GAP,
        origin=published.origin,
        parameters=sum(math.prod(tensor.shape) for tensor in weights.values()),
        dtypes=", ".join(f"{dtype} ({count} tensors)" for dtype, count in dtypes.most_common()),
        files="\n".join(rows),
        notes=_bullets(record.notes) or "No value was changed; names and layout are those of this project.",
        ignored=_bullets(_by_reason(record.ignored)) or "Nothing.",
        assumed=_bullets(record.assumed) or "Nothing.",
        fixed=_bullets(published.fixed) or "None known.",
        images=_yaml(config, "input", "preprocess"),
        decoding=_yaml(config, "prompt", "generation"),
    )
    path.write_text(text, encoding="utf-8")


def _by_reason(ignored: Mapping[str, str]) -> list[str]:
    """One line for each reason, with its first keys and the number of the others."""
    reasons: dict[str, list[str]] = {}
    for key, reason in ignored.items():
        reasons.setdefault(reason, []).append(key)
    return [
        f"{reason}: {', '.join(f'`{key}`' for key in keys[:SHOWN_KEYS])}"
        + (f" and {len(keys) - SHOWN_KEYS} more" if len(keys) > SHOWN_KEYS else "")
        for reason, keys in reasons.items()
    ]


def _bullets(lines: Sequence[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _yaml(config: Mapping[str, Any], *sections: str) -> str:
    """Sections of model.yaml without empty values; values are written as JSON, to keep lists on one line."""
    lines = []
    for section in sections:
        found = {key: value for key, value in (config.get(section) or {}).items() if value not in (None, "", [])}
        lines += [f"{section}:", *(f"  {key}: {json.dumps(value)}" for key, value in found.items())] if found else []
    return "\n".join(lines)


def _sha256(path: Path) -> str:
    """Hexadecimal sha256; shows a progress bar for a large file."""
    size = path.stat().st_size
    digest = hashlib.sha256()
    hidden = None if size >= PROGRESS_FROM else True  # None shows the bar on a terminal only
    with (
        path.open("rb") as file,
        tqdm(total=size, unit="B", unit_scale=True, desc=f"sha256 of {path.name}", leave=False, disable=hidden) as bar,
    ):
        while block := file.read(1 << 20):
            digest.update(block)
            bar.update(len(block))
    return digest.hexdigest()
