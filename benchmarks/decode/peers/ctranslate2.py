"""CTranslate2, with a converter for BioGPT, which it lacks, modeled on its converter for OPT."""

import json
from pathlib import Path
from typing import Any

import ctranslate2
from ctranslate2.converters import TransformersConverter
from ctranslate2.converters.transformers import BartLoader, register_loader
from ctranslate2.specs import common_spec, transformer_spec

from benchmarks.decode.peers.conversion import convert_once
from benchmarks.decode.peers.peer import Unsupported

_COMPUTE = {"int8_dynamic": "int8_float32", "fp32": "float32"}
"""Precision -> compute_type. int8 quantizes activations dynamically. There is no bfloat16 on CPUs."""


@register_loader("BioGptConfig")
class BioGptLoader(BartLoader):
    """BioGPT is fairseq's pre-norm language model: BART's decoder layers, scaled embeddings, learned positions."""

    architecture_name = "BioGptForCausalLM"

    def get_model_spec(self, model: Any) -> Any:
        """Map the weights of a `transformers` model to CTranslate2's specification."""
        c = model.config
        spec = transformer_spec.TransformerDecoderModelSpec.from_config(
            c.num_hidden_layers, c.num_attention_heads, pre_norm=True, activation=common_spec.Activation.GELU
        )
        body = model.biogpt
        # The scale is an attribute of the embedding here, of the whole decoder in BART.
        body.embed_scale = body.embed_tokens.embed_scale
        self.set_decoder(spec.decoder, body)
        self.set_linear(spec.decoder.projection, model.output_projection)
        return spec

    def set_config(self, config: Any, model: Any, tokenizer: Any) -> None:
        """Set the special tokens and PyTorch's epsilon of layer norms."""
        config.bos_token, config.eos_token = tokenizer.bos_token, tokenizer.eos_token
        config.unk_token = tokenizer.unk_token
        config.layer_norm_epsilon = 1e-5

    def set_vocabulary(self, spec: Any, tokens: list[str]) -> None:
        """One vocabulary; BART has two."""
        spec.register_vocabulary(tokens)


class Peer:
    """Beam search of `ctranslate2.Generator`."""

    precisions = tuple(_COMPUTE)
    note = "same weights, converted; the prefix is given as token ids"

    def __init__(self, folder: Path, threads: int) -> None:
        self.versions = {"ctranslate2": ctranslate2.__version__}
        self._folder = folder
        self._threads = threads
        self._words: list[str] = []
        self._generators: dict[str, Any] = {}

    def load(self, precision: str) -> None:
        """Convert and load, once."""
        if not (self._folder / "config.json").is_file():
            raise Unsupported("CTranslate2 has no generator for a cross-attention decoder without an encoder")
        if precision in self._generators:
            return
        stored = "int8" if precision.startswith("int8") else "float32"
        folder = convert_once(self._folder, f"ctranslate2-{stored}", lambda target: self._convert(target, stored))
        self._generators[precision] = ctranslate2.Generator(
            str(folder), device="cpu", compute_type=_COMPUTE[precision], inter_threads=1, intra_threads=self._threads
        )
        self._words = json.loads((folder / "vocabulary.json").read_text(encoding="utf-8"))

    def _convert(self, target: Path, quantization: str) -> None:
        TransformersConverter(str(self._folder)).convert(str(target), quantization=quantization)

    def run(self, precision: str, prefixes: list[list[int]], beams: int, new_tokens: int) -> list[list[int]]:
        """Decode all prefixes in one batch."""
        results = self._generators[precision].generate_batch(
            [[self._words[i] for i in ids] for ids in prefixes],
            beam_size=beams,
            min_length=new_tokens,
            max_length=new_tokens,
            # The prefix is read in one pass, not token by token.
            include_prompt_in_result=False,
        )
        return [list(result.sequences_ids[0]) for result in results]
