"""MODEL_CARD.md of a trained model: what training knows, and gaps for its owner."""

import json
import shutil
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import yaml

from prelim.archive.model_config import ModelConfig
from prelim.networks.card_section import GAP
from prelim.networks.model_folder import MODEL_CARD
from prelim.networks.terms import describe_terms
from prelim.report import NOTICE
from training.run.run_state import RunProgress
from training.settings import Settings

CARD = """# {name} {version}

Writes a report for a radiology image.

**{notice}** It is not known how often its reports are wrong: `python -m training.evaluate` measures it.

## What it is

Architecture `{architecture}` of this project; {parameters:,} numbers, stored as {dtype}; training changed {trained:,}.
Initialized with {start}.

## Terms

<!-- terms -->
{terms}
<!-- end of terms -->

## Intended use

{gap} whom it is for, what it must not be used for.

## Training data

`{format}`: {train} examples to train on, {val} to validate with; {patients}

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


@dataclass(frozen=True)
class Counts:
    """Examples of a run.

    train, val : to train on, to validate with
    unknown    : of both, those whose patient is unknown
    """

    train: int
    val: int
    unknown: int


def write_card(
    settings: Settings, config: ModelConfig, progress: RunProgress, counts: Counts, parameters: tuple[int, int]
) -> None:
    """Write MODEL_CARD.md with what training knows, and gaps for the rest.

    A card that is there is of other weights, so nothing in it can be taken over unread: it is moved to the run folder.

    parameters : that were trained, and all
    """
    path = Path(settings.run.out) / MODEL_CARD
    if path.exists():
        moved = _find_free_name(Path(settings.run.folder))
        shutil.copy(path, moved)
        print(f"{path} is new; the card of the weights before is {moved}: copy what still holds into the new one")
    losses = f"Training loss at the end {progress.train[-1][1]:.3f} nats a token"
    if progress.val:
        step, loss, right = min(progress.val, key=lambda row: row[1])
        losses += (
            f"; these weights are those of step {step:.0f}, which had the lowest validation loss, {loss:.3f} "
            f"({right:.1%} of tokens right, each told the ones before)"
        )
    text = CARD.format(
        **{key: getattr(config, key) for key in ("name", "version", "architecture")},
        terms=describe_terms(config.licence, config.use, path.parent),
        notice=NOTICE,
        gap=GAP,
        parameters=parameters[1],
        trained=parameters[0],
        dtype=settings.run.dtype,
        start=_describe_start(settings),
        format=settings.dataset.format,
        train=counts.train,
        val=counts.val,
        patients=_describe_patients(counts),
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


def _describe_patients(counts: Counts) -> str:
    if not counts.val:
        return "the weights are those of the last step."
    if not counts.unknown:
        return "no patient is in both, as far as ids tell."
    of = "all" if counts.unknown == counts.train + counts.val else str(counts.unknown)
    return f"the patient of {of} of them is unknown, so that a patient may be in both."


def _find_free_name(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    names = (folder / f"{Path(MODEL_CARD).stem}.before-{number}.md" for number in count(1))
    return next(name for name in names if not name.exists())
