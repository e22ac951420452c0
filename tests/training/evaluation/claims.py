"""What README, docs/evaluate.md and the demo card say in numbers that is not measured, with what proves it."""

import inspect
import re
from collections.abc import Callable
from pathlib import Path

import yaml

from launcher.install import GB_CPU, GB_CUDA
from prelim.labels.labeler import FINDINGS
from prelim.networks.architectures import ARCHITECTURES
from tests.parity.fixture import ATOL
from training.evaluation.baselines import pixel_vectors, random_reports
from training.evaluation.language import MIXED
from training.evaluation.metrics.coverage import RECALLS
from training.evaluation.metrics.measure import Bootstrap
from training.evaluation.metrics.meteor import LONGEST
from training.evaluation.metrics.overlap import SACREBLEU
from training.evaluation.metrics.r2gen import Protocol
from training.evaluation.subgroups import SMALLEST
from training.evaluation.table import FEW

ROOT = Path(__file__).parents[3]

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
_TENS = "teen|".join(("thir", "four", "fif", "six", "seven", "eigh", "nine", ""))
NUMBERS = re.compile(
    rf"(?<![\w.-])\d[\d,.]*(?:-\d[\d,.]*)?(?![\w-])|\b(?i:{'|'.join(WORDS)}|{_TENS[:-1]}|twenty|thirty|forty|fifty|"
    r"sixty|seventy|eighty|ninety|hundreds?|thousands?|millions?|dozens?|half|halves|thirds?|quarters?|fifths?|tenths?|"
    r"twice|double|triple)\b"
)

CAPTIONS = 6
"""Of each combination of labels, as templates.json has them (`test_shared_pictures_are_what_the_card_says_of_them`)."""

RARE = 20
"""Training pictures of a rare finding, at most (likewise)."""

DEMO_REPORTS = 4
"""That `make demo` asks for (`test_the_demo_asks_for_as_many_reports_as_the_readme_says`)."""

OF_TRANSFORMERS = ("blip", "encoder_decoder", "gemma3", "llava", "llava_mistral", "llava_rad", "maira2", "qwen2_5_vl")
"""Architectures that are not among the five published systems."""


def default(function: Callable[..., object], name: str) -> object:
    """The default of a parameter."""
    return inspect.signature(function).parameters[name].default


def _find_address() -> str:
    found = re.search(
        r"^inference_address=(.*)$", (ROOT / "config.properties").read_text(encoding="utf-8"), re.MULTILINE
    )
    return found[1] if found else ""


def _find_encoder() -> str:
    """Package and version of the encoder that training begins with."""
    pinned = (ROOT / "training" / "efficientnet_lite0.txt").read_text(encoding="utf-8")
    found = re.search(r"^(efficientnet[\w-]+)==([\d.]+)", pinned, re.MULTILINE)
    return " ".join(found.groups()) if found else ""


def _find_gateway() -> str:
    return str(yaml.safe_load((ROOT / "deploy" / "nginx" / "gateway.yaml").read_text(encoding="utf-8"))["listen"])


CLAIMS = {
    "README.md": [
        f"{GB_CPU:.0f} to {GB_CUDA:.0f} GB of disk",
        f"within {ATOL:.0e}".replace("e-0", "e-"),
        f"asks it for {WORDS[DEMO_REPORTS]} reports",
        f"**{WORDS[len(ARCHITECTURES) - len(OF_TRANSFORMERS)].capitalize()} published systems**",
        _find_address(),
        f"http://{_find_gateway()}",
    ],
    "docs/evaluate.md": [
        f"one drawn per study, seed {default(random_reports, 'seed')}",
        "{0} x {0} pixels".format(default(pixel_vectors, "side")),
        f"truncated after {default(Protocol, 'max_tokens') - 1} words",  # type: ignore[operator]
        f"`--max-tokens {default(Protocol, 'max_tokens')}`",
        f"fewer than {default(Protocol, 'min_count')} occurrences",
        f"The {len(FINDINGS)} findings come first",
        f"more than {LONGEST} words",
        f"at least {SMALLEST} studies",
        f"groups of fewer than {FEW} patients",
        f"over {100 * MIXED:.0f} % that can be told",
        f"95 % bootstrap intervals ({default(Bootstrap, 'draws')} draws of patients)",
        f"instead of the {WORDS[len(SACREBLEU)]}",
        f"the worse of {WORDS[len(RECALLS)]} recalls",
        # Of other programs: R2Gen's settings for MIMIC-CXR, the versions that the tests of metrics compare with.
        "MIMIC-CXR: 100",
        "MIMIC-CXR: 10",
        "METEOR 1.5",
        "`fast_bleu` 0.0.90",
        "sacreBLEU, 0 to 100",
        "CIDEr is 0 if all references are equal",
        "counts a label that no reference has as zero",
        "BLEU-1 to 4",
        "95 % intervals; n: reports with the finding",
    ],
    "MODEL_CARD.md": [
        _find_encoder(),
        f"{WORDS[CAPTIONS].capitalize()} captions are right for every picture",
        f"which of the {WORDS[CAPTIONS]} was guessed",
        f"`caption 2`: the second of the {WORDS[CAPTIONS]}, every time",
        "Findings with twenty training pictures or fewer" if RARE == 20 else "",
        # Asserted of the data by test_shared_pictures_are_what_the_card_says_of_them.
        "adults of one hospital",
        "children of one to five years",
        "half of the chests",
        # Of publications, licenses and other programs; of the list of systems in docs/import.md.
        "Google, 2020",
        "ICML 2019",
        "whose maximum is 10",
        "knee grades 0-1 / 2-4",
        "(95 % interval",
        "CC BY 4.0: https://creativecommons.org/licenses/by/4.0/",
        "CC BY 3.0: https://creativecommons.org/licenses/by/3.0/",
        "CC0 1.0: https://creativecommons.org/publicdomain/zero/1.0/",
        "System 1 of this project",
    ],
}
"""Phrases with the figures of each page that are not measured, from the code where they are its own."""

NOT_COUNTED = {
    "README.md": [
        "on one machine or a cluster",
        "--noproxy 127.0.0.1",
        "Gemma 3 and MedGemma",
        "in OpenVINO or in 8 bits",
    ],
    "docs/evaluate.md": [
        "fails where one differs",
        "There is one table",
        "the one with the highest",
        "one-word",
        "no report is scored twice",
        "between two trainings",
        "several statements in one sentence",
        "with one exception",
        "which one it is",
        "Of two findings joined by",
    ],
    "MODEL_CARD.md": [
        "Writes one caption",
        "one of them is given with it",
        "mostly one of wording",
        "come from one of its sources",
        "as one of these",
        "it writes one sentence of their kind",
    ],
}
"""Phrases in which such a word is not a figure."""


def find_unproven(text: str, claims: list[str]) -> list[str]:
    """Every number of a text that is in no claim, with the words around it."""
    text = " ".join(text.split())
    for phrase in claims:
        text = text.replace(phrase, " ")
    return [text[max(found.start() - 30, 0) : found.end() + 20] for found in NUMBERS.finditer(text)]
