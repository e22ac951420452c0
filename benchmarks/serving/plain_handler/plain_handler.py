"""Image in, report out: encoder in ONNX Runtime, decoder with `transformers` `generate`, called once per batch.

For comparison, not part of the product. Requests have the form parts `image`, `num_beams` and `max_new_tokens`.
"""

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import torch
from PIL import Image
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM
from transformers.modeling_outputs import BaseModelOutput
from ts.torch_handler.base_handler import BaseHandler


class PlainHandler(BaseHandler):
    """Decodes every report of a batch to the longest length and cuts it: `generate` has one length for all."""

    def initialize(self, context: Any) -> None:
        """Load networks, decoder and tokenizer."""
        folder = Path(context.system_properties["model_dir"])
        self.settings = json.loads((folder / "plain.json").read_text(encoding="utf-8"))
        self.vision = ort.InferenceSession(str(folder / "vision.onnx"), providers=["CPUExecutionProvider"])
        self.connector = ort.InferenceSession(str(folder / "connector.onnx"), providers=["CPUExecutionProvider"])
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        config = AutoConfig.from_pretrained(folder / "decoder")
        kind: Any = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
        decoder = kind.from_config(config)
        # Not strict, because tied weights are not in the file.
        decoder.load_state_dict(load_file(folder / "decoder" / "model.safetensors"), strict=False)
        self.decoder = decoder.to(getattr(torch, self.settings["dtype"])).eval()
        self.context = context
        self.initialized = True

    def preprocess(self, requests: Sequence[Mapping[str, Any]]) -> tuple[np.ndarray, int, list[int]]:
        """The pixel_values of all images, the number of beams, and the length of each report."""
        pixel_values = np.stack([self.read(request["image"]) for request in requests])
        return pixel_values, int(requests[0]["num_beams"]), [int(request["max_new_tokens"]) for request in requests]

    def read(self, image: bytes) -> np.ndarray:
        """The pixel_values of an 8-bit image, resized to a square."""
        size = self.settings["size"]
        resampling = Image.Resampling[self.settings["interpolation"].upper()]
        resized = Image.open(io.BytesIO(image)).convert("RGB").resize((size, size), resampling)
        pixels = np.asarray(resized, dtype=np.float32) / np.float32(255)
        normalized = (pixels - np.float32(self.settings["mean"])) / np.float32(self.settings["std"])
        return normalized.transpose(2, 0, 1)

    @torch.inference_mode()
    def inference(self, batch: tuple[np.ndarray, int, list[int]]) -> list[list[int]]:
        """Generate the token ids of every report."""
        pixel_values, beams, lengths = batch
        (features,) = self.vision.run(None, {self.vision.get_inputs()[0].name: pixel_values})
        (embeds,) = self.connector.run(None, {self.connector.get_inputs()[0].name: features})
        tokens = self.decoder.generate(
            **self.inputs(torch.from_numpy(embeds).to(self.decoder.dtype)),
            num_beams=beams,
            do_sample=False,
            min_new_tokens=max(lengths),
            max_new_tokens=max(lengths),
            eos_token_id=self.settings["eos_token_id"],
            pad_token_id=self.settings["pad_token_id"],
        )
        new = tokens[:, -max(lengths) :].tolist()
        return [ids[:length] for ids, length in zip(new, lengths, strict=True)]

    def inputs(self, image_embeds: Tensor) -> dict[str, Any]:
        """The image as input of `generate`: as a prefix, or as encoder output."""
        seen = torch.ones(image_embeds.shape[:2], dtype=torch.long)
        if not self.decoder.config.is_encoder_decoder:
            return {"inputs_embeds": image_embeds, "attention_mask": seen}
        return {
            "encoder_outputs": BaseModelOutput(last_hidden_state=image_embeds),
            "attention_mask": seen,
            "decoder_start_token_id": self.settings["bos_token_id"],
        }

    def postprocess(self, token_ids: list[list[int]]) -> list[dict[str, Any]]:
        """Make one JSON object per report."""
        return [{"report": self.tokenizer.decode(ids), "num_tokens": len(ids)} for ids in token_ids]
