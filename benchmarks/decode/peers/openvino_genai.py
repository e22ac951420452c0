"""OpenVINO GenAI: beam search in C++ on the model that optimum-intel exports."""

from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import openvino_genai
from openvino_tokenizers import convert_tokenizer
from transformers import AutoTokenizer

from benchmarks.decode.peers.conversion import convert_once
from benchmarks.decode.peers.openvino import COMPUTED, export_once, settings


class Peer:
    """`openvino_genai.LLMPipeline.generate`, with its default attention back end."""

    precisions = tuple(COMPUTED)
    note = "the exported model of openvino; the prefix is given as token ids"

    def __init__(self, folder: Path, threads: int) -> None:
        self.versions = {"openvino-genai": version("openvino-genai")}
        self._folder = folder
        self._threads = threads
        self._pipelines: dict[str, Any] = {}

    def load(self, precision: str) -> None:
        """Export and compile, once."""
        if precision in self._pipelines:
            return
        model = export_once(self._folder, precision)
        tokenizer = openvino_genai.Tokenizer(str(convert_once(self._folder, "openvino-tokenizer", self._convert)))
        self._pipelines[precision] = openvino_genai.LLMPipeline(
            str(model), tokenizer, "CPU", **settings(precision, self._threads)
        )

    def _convert(self, target: Path) -> None:
        """Convert the tokenizer: the pipeline does not start without one, although it gets token ids."""
        words, texts = convert_tokenizer(AutoTokenizer.from_pretrained(self._folder), with_detokenizer=True)
        target.mkdir()
        openvino.save_model(words, target / "openvino_tokenizer.xml")
        openvino.save_model(texts, target / "openvino_detokenizer.xml")

    def run(self, precision: str, prefixes: list[list[int]], beams: int, new_tokens: int) -> list[list[int]]:
        """Decode all prefixes in one batch."""
        ids = np.array(prefixes, dtype=np.int64)
        inputs = openvino_genai.TokenizedInputs(openvino.Tensor(ids), openvino.Tensor(np.ones_like(ids)))
        config = openvino_genai.GenerationConfig()
        config.num_beams = beams
        config.min_new_tokens = new_tokens
        config.max_new_tokens = new_tokens
        config.do_sample = False
        config.ignore_eos = True
        results = self._pipelines[precision].generate(inputs, config)
        return [list(tokens) for tokens in results.tokens]
