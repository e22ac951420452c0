"""The model folder that training writes, as prelim reads it and `make archive` takes it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from tokenizers import Tokenizer
from torch import Tensor

from prelim.archive.archive import CONFIDENCE, CONFIG, GATE, TOKENIZER, WEIGHTS
from prelim.archive.model_config import ModelConfig
from prelim.decoders.weights_file import check_weights, write_weights
from prelim.networks.model_folder import MODEL_CARD, build_network
from prelim.report import NOTICE
from training.run.run_state import Progress
from training.settings import Settings

GAP = "**GAP, for the owner to fill:**"
"""Marks everything that training does not know."""

CARD = """# {name} {version}

Writes a report for a radiology image.

**{notice}** It is not known how often its reports are wrong: `python -m training.evaluate` measures it.

## What it is

Architecture `{architecture}` of this project; {parameters:,} numbers, stored as {dtype}; training changed {trained:,}.
Initialized with {start}.

License of the weights: {licence}.

## Intended use

{gap} whom it is for, what it must not be used for.

## Training data

`{format}`: {train} examples to train on, {val} to validate with; no patient is in both, as far as ids tell.

{gap} sources, number of patients, their licenses; population, devices and views; how reports were cleaned.

## Training

{steps} steps in {minutes:.0f} minutes. {losses}

```yaml
{settings}
```

## Evaluation

{gap} scores on studies of patients that were not in any training data, each next to the score of a constant report (the
same text for every image) on the same studies. A score without that baseline says nothing, and is not shown.

## Confidence

<!-- confidence -->
This model is not calibrated: its answers have no confidence.
<!-- end of confidence -->

## Known limits

{gap} images, findings and patients for which it fails.
"""


def write_config(folder: Path, description: Mapping[str, Any]) -> ModelConfig:
    """Write model.yaml and read it back.

    Only what differs from the defaults is written: the file is meant to be read.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # Through JSON: the same object twice would be an anchor and a reference in YAML.
    plain = json.loads(json.dumps(dict(description)))
    text = yaml.safe_dump(plain, sort_keys=False, default_flow_style=None, width=120)
    (folder / CONFIG).write_text(text, encoding="utf-8")
    return ModelConfig.read(folder / CONFIG)


def write_folder(
    folder: Path, description: Mapping[str, Any], weights: Mapping[str, Tensor], tokenizer: Tokenizer, dtype: str
) -> None:
    """Write model.yaml, model.safetensors and tokenizer.json, and remove the gate of other weights.

    Raises ArchiveError where the weights are not those of the network that model.yaml describes.
    """
    config = write_config(folder, description)
    with torch.device("meta"):
        network = build_network(config)
    wanted = getattr(torch, dtype)
    stored = {name: value.to(wanted) if value.is_floating_point() else value for name, value in weights.items()}
    check_weights(network, stored, folder / WEIGHTS)
    write_weights(folder / WEIGHTS, stored)
    tokenizer.save(str(folder / TOKENIZER))
    (folder / GATE).unlink(missing_ok=True)
    (folder / CONFIDENCE).unlink(missing_ok=True)


def write_card(
    settings: Settings, config: ModelConfig, progress: Progress, examples: tuple[int, int], parameters: tuple[int, int]
) -> None:
    """Write MODEL_CARD.md with what training knows, and gaps for the rest; an existing card is kept.

    examples   : to train on, to validate with
    parameters : that were trained, and all
    """
    path = Path(settings.run.out) / MODEL_CARD
    if path.exists():
        print(f"{path} already exists and is kept")
        return
    losses = f"Training loss at the end {progress.train[-1][1]:.3f} nats a token"
    if progress.val:
        step, loss, right = min(progress.val, key=lambda row: row[1])
        losses += (
            f"; these weights are those of step {step:.0f}, which had the lowest validation loss, {loss:.3f} "
            f"({right:.1%} of tokens right, each told the ones before)"
        )
    text = CARD.format(
        **{key: getattr(config, key) for key in ("name", "version", "architecture", "licence")},
        notice=NOTICE,
        gap=GAP,
        parameters=parameters[1],
        trained=parameters[0],
        dtype=settings.run.dtype,
        start=_describe_start(settings),
        format=settings.dataset.format,
        train=examples[0],
        val=examples[1],
        steps=progress.step,
        minutes=progress.seconds / 60,
        losses=losses + ".",
        settings=yaml.safe_dump(json.loads(json.dumps(settings.as_dict())), sort_keys=False).strip(),
    )
    path.write_text(text, encoding="utf-8")


def _describe_start(settings: Settings) -> str:
    start = settings.start
    if start.weights:
        return f"the weights of `{start.weights}`"
    return (
        f"the weights of `{start.vision}` for the encoder, and otherwise random ones"
        if start.vision
        else "random weights"
    )
