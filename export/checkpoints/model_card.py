"""Writes the MODEL_CARD.md of an imported model: what is known of it, and what only its owner can say."""

import hashlib
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from tqdm import tqdm

from export.checkpoints.published_weights import ImportRecord, Weights
from export.checkpoints.source import Source
from prelim.archive.archive import CONFIG
from prelim.decoders.weights_file import PROGRESS_FROM
from prelim.networks.architectures.architecture import Published
from prelim.networks.model_folder import MODEL_CARD
from prelim.report import NOTICE

GAP = "**GAP, for the owner to fill:**"
"""Stands before everything that the files do not tell."""

SHOWN_KEYS = 3
"""How many of the keys that are ignored for one reason are named."""

CARD = """# {name} {version}

Writes a report to a radiology image. Imported from a checkpoint: no score on this page, because none was measured.

**{notice}** It is not known how often its reports are wrong.

## What it is

Architecture `{architecture}` of this project, after {origin}.
`python -m tests.parity` compares the architecture's code with recorded outputs of the original code; these weights it
does not compare. {parameters:,} numbers, stored as {dtypes}.

Licence of the weights: {licence}.

## Intended use

Trying out, research and teaching: its reports are drafts that a person compares with the image. Any other use has to
be measured first by whoever wants it.

{gap} whom it is for, what it must not be used for.

## Files it was made of

| file | bytes | sha256 |
|---|---|---|
{files}

{notes}

Left out of the checkpoint:

{ignored}

## What was mended

Where the original code is at fault, this project does not repeat it:

{mended}

## How images become input

```yaml
{images}
```

## How reports are decoded, where a request does not say otherwise

```yaml
{decoding}
```

## Training data

{gap} sources, number of studies and patients, their licences; population, devices and views; the splits, and whether
any patient is in two of them; how reports were cleaned.

## Evaluation

{gap} scores on studies of patients that were in no training data, each beside the score of a constant report (the same
text for every image) on the same studies. A score without that baseline beside it says nothing, and is not shown.

## Limits that are known

{gap} images, findings and patients for which it fails.
"""


def write_card(
    folder: Path, published: Published, weights: Weights, record: ImportRecord, sources: Sequence[Source]
) -> None:
    """Write MODEL_CARD.md into a model folder whose model.yaml is there; one that is there already is left as it is.

    weights : of the model
    record  : what became of the checkpoint's
    sources : of weights and tokenizer; all their files are hashed
    """
    path = folder / MODEL_CARD
    if path.exists():
        print(f"{path} is there already and is left as it is")
        return
    config: Mapping[str, Any] = yaml.safe_load((folder / CONFIG).read_text(encoding="utf-8"))
    dtypes = Counter(str(tensor.dtype).removeprefix("torch.") for tensor in weights.values())
    rows = [
        f"| {source.file_label(file)} | {file.stat().st_size:,} | {_sha256(file)} |"
        for source in sources
        for file in source.files
    ]
    text = CARD.format(
        **{key: config[key] for key in ("name", "version", "architecture", "licence")},
        notice=NOTICE,
        gap=GAP,
        origin=published.origin,
        parameters=sum(math.prod(tensor.shape) for tensor in weights.values()),
        dtypes=", ".join(f"{dtype} ({count} tensors)" for dtype, count in dtypes.most_common()),
        files="\n".join(rows),
        notes=_listed(record.notes) or "No number was changed on the way; names and layout are those of this project.",
        ignored=_listed(_by_reason(record.ignored)) or "Nothing.",
        mended=_listed(published.mended) or "Nothing that is known.",
        images=_yaml(config, "input", "preprocess"),
        decoding=_yaml(config, "prompt", "generation"),
    )
    path.write_text(text, encoding="utf-8")


def _by_reason(ignored: Mapping[str, str]) -> list[str]:
    """One line for each reason, with how many keys it has and the first of them."""
    reasons: dict[str, list[str]] = {}
    for key, reason in ignored.items():
        reasons.setdefault(reason, []).append(key)
    return [
        f"{reason}: {', '.join(f'`{key}`' for key in keys[:SHOWN_KEYS])}"
        + (f" and {len(keys) - SHOWN_KEYS} more" if len(keys) > SHOWN_KEYS else "")
        for reason, keys in reasons.items()
    ]


def _listed(lines: Sequence[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _yaml(config: Mapping[str, Any], *sections: str) -> str:
    """Sections of model.yaml, without what is not set or empty; JSON, which is YAML as well, keeps lists on a line."""
    lines = []
    for section in sections:
        found = {key: value for key, value in (config.get(section) or {}).items() if value not in (None, "", [])}
        lines += [f"{section}:", *(f"  {key}: {json.dumps(value)}" for key, value in found.items())] if found else []
    return "\n".join(lines)


def _sha256(path: Path) -> str:
    """Hexadecimal sha256; shows how far it is for a large file."""
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
