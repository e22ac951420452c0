"""Ours: the engine of prelim, with weights that are imported and stored like those of an archive."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.models.imported import import_checkpoint
from benchmarks.models.shapes import BOS, EOS, PAD, read_shape
from prelim.decoders.decoder import IMAGE
from prelim.decoders.precision import PRECISIONS
from prelim.generation.decode_request import DecodeRequest
from prelim.generation.engine import Engine
from prelim.generation.options import GenerationOptions
from prelim.networks.trained_decoder import serving_decoder


class Peer:
    """The engine, without the server and without the vision encoder."""

    precisions = tuple(PRECISIONS)
    note = "prelim.generation.engine"

    def __init__(self, folder: Path, threads: int) -> None:
        torch.set_num_threads(threads)
        self.versions = {"torch": torch.__version__}
        self._shape = read_shape(folder)
        self._network = import_checkpoint(folder, self._shape)
        self._decoders: dict[str, Any] = {}

    def load(self, precision: str) -> None:
        """Store the weights in this precision, once."""
        if precision not in self._decoders:
            self._decoders[precision] = serving_decoder(self._network, precision)

    def run(self, precision: str, prefixes: list[list[int]], beams: int, new_tokens: int) -> list[list[int]]:
        """Decode all prefixes as requests of one batch."""
        decoder = self._decoders[precision]
        engine: Engine[DecodeRequest] = Engine(
            decoder, slots=len(prefixes), eos_token_ids=[EOS], pad_token_id=PAD, detokenize=str
        )
        options = GenerationOptions(num_beams=beams, min_new_tokens=new_tokens, max_new_tokens=new_tokens)
        requests = {}
        for i, ids in enumerate(prefixes):
            image, prompt = ids[: self._shape.image_tokens], ids[self._shape.image_tokens :]
            start = (IMAGE, *prompt) if self._shape.is_prefix else (BOS,)
            requests[f"{i}"] = DecodeRequest(self._image_embeds(image), start, options)
        done = engine.decode(requests)
        return [list(done[key][0].token_ids) for key in requests]

    def _image_embeds(self, ids: list[int]) -> Tensor:
        """Token embeddings replace the image, so that peers that accept only token ids read the same prefix."""
        if not self._shape.is_prefix:
            network = self._network
            words = network.body.get_input_embeddings() if self._shape.of_library else network.token_embedding
            return words(torch.tensor(ids))
        nothing = torch.empty(1, 0, self._shape.section["hidden_size"])
        return self._network.embed(nothing, torch.tensor([[IMAGE, *ids]]))[0]
