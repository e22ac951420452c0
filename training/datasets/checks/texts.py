"""The reports of a data set: how long, how varied, how many words, and what a tokenizer makes of them."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from training.datasets.cleaning import DEIDENTIFIED
from training.datasets.study import DatasetError

WORD = re.compile(r"[^\W_]+(?:[-'][^\W_]+)*")

COMMON = 10
"""How many of the most repeated reports are shown."""


def describe_texts(texts: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Facts about the reports of every split; an empty text is a study without a report.

    texts : reports by split
    """
    filled = {split: [text for text in reports if text] for split, reports in texts.items()}
    everything = [" ".join(text.split()) for reports in filled.values() for text in reports]
    counts = Counter(everything)
    words = [[word.lower() for word in WORD.findall(text)] for text in everything]
    vocabulary = Counter(word for report in words for word in report)
    repeated = {text: count for text, count in counts.most_common(COMMON) if count > 1}
    return {
        "reports": len(everything),
        "empty": {split: len(texts[split]) - len(filled[split]) for split in texts},
        "words": spread([len(report) for report in words]),
        "distinct": len(counts),
        "repeated": sum(count for count in counts.values() if count > 1),
        "most_repeated": [{"text": text, "reports": count} for text, count in repeated.items()],
        "vocabulary": len(vocabulary),
        "vocabulary_once": sum(count == 1 for count in vocabulary.values()),
        "most_frequent_words": vocabulary.most_common(COMMON),
        "deidentified": sum(bool(DEIDENTIFIED.search(text)) for text in everything),
        "against_training": _against_training(filled),
    }


def _against_training(filled: Mapping[str, Sequence[str]]) -> dict[str, dict[str, float]]:
    """How much of every other split is known from training: whole reports word for word, and single words."""
    train = [" ".join(text.split()) for text in filled.get("train", ())]
    if not train:
        return {}
    reports, words = set(train), {word.lower() for text in train for word in WORD.findall(text)}
    known = {}
    for split, texts in filled.items():
        if split != "train" and texts:
            found = [word.lower() for text in texts for word in WORD.findall(text)]
            repeated = sum(" ".join(text.split()) in reports for text in texts)
            known[split] = {
                "reports_in_training": repeated,
                "verbatim_in_training": repeated / len(texts),
                "words_unknown": sum(word not in words for word in found) / max(1, len(found)),
            }
    return known


def describe_tokens(texts: Sequence[str], tokenizer: Path, max_tokens: int | None) -> dict[str, Any]:
    """Lengths in tokens, with the special tokens that the tokenizer adds, and how many reports `max_tokens` cuts.

    Raises DatasetError for a file that is not a tokenizer.json.
    """
    file = tokenizer / "tokenizer.json" if tokenizer.is_dir() else tokenizer
    try:
        network_tokens = Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises nothing narrower
        raise DatasetError(f"{file} is not a tokenizer.json: {error}; give that of the model") from error
    network_tokens.no_truncation()
    network_tokens.no_padding()
    lengths = [len(encoding.ids) for encoding in network_tokens.encode_batch([text for text in texts if text])]
    cut = None if max_tokens is None else sum(length > max_tokens for length in lengths)
    return {"tokenizer": str(file), "tokens": spread(lengths), "max_tokens": max_tokens, "cut": cut, "lengths": lengths}


def spread(values: Sequence[float]) -> dict[str, float]:
    """Least, quartiles, 95th and 99th percentile, greatest, and mean; empty where there are no values."""
    if not values:
        return {}
    names = ("min", "p25", "median", "p75", "p95", "p99", "max")
    points = np.percentile(values, (0, 25, 50, 75, 95, 99, 100))
    return {**dict(zip(names, points.round(4).tolist(), strict=True)), "mean": round(float(np.mean(values)), 4)}
