"""A model folder run in this process: its reports by its own options, and how likely it finds the references."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from prelim.errors import InputError
from prelim.generation.engine import Engine
from prelim.generation.options import GenerationOptions
from prelim.generation.prompt import Prompter
from prelim.generation.request import DecodeRequest
from prelim.images.preprocess import preprocess
from prelim.images.radiograph import InputConfig, Radiograph, read_radiograph
from prelim.networks.model_folder import Model
from prelim.networks.trained_decoder import serving_decoder
from prelim.report import cut_at_stop
from training.datasets.formats.feature_json import read_embedding
from training.datasets.study import DatasetError


@dataclass(frozen=True)
class Run:
    """What a model gave for a number of images.

    reports  : its texts
    features : mean image features, Tensor, shape (images, width)
    nats     : of each reference, minus the logarithm of its probability; the end of the report is a token of it
    tokens   : of each reference, the end included
    cut      : references longer than the decoder's positions, which were cut
    """

    reports: tuple[str, ...]
    features: Tensor
    nats: tuple[float, ...]
    tokens: tuple[int, ...]
    cut: int


class ModelRunner:
    """Encodes images, writes reports and reads references, by the networks that are exported and served.

    slots : how many images are taken together
    """

    def __init__(self, model: Model, slots: int = 16, device: str = "cpu") -> None:
        self._model, self._slots, self._device = model, slots, device
        model.network.vision.to(device)
        model.network.connector.to(device)
        self._decoder = serving_decoder(model.network.decoder, packed=False, device=device)
        prompt, tokens = model.config.prompt, model.config.tokenizer
        words = model.config.decoder.get("vocab_size")
        self._prompter = None if prompt is None else Prompter(prompt, model.tokenizer, words)
        ids = None if self._prompter is None else self._prompter.ids(None, None)
        self._prompt_ids: tuple[int, ...] = ids or (tokens.bos_token_id,)

    def features(self, images: Sequence[Path]) -> Tensor:
        """Mean image features, shape (images, width)."""
        return torch.cat([_mean(image_features) for image_features in self._encoded(images, "encoding")])

    @torch.inference_mode()
    def run(self, images: Sequence[Path], references: Sequence[str], options: GenerationOptions | None = None) -> Run:
        """Reports for the images, and the probabilities of their references.

        options : how to decode; None takes the model's own
        """
        reports: list[str] = []
        features, nats, tokens, cut = [], [], [], 0
        for image_features in self._encoded(images, "writing"):
            image_embeds = self._model.network.connector(image_features)
            golds = references[len(reports) :][: len(image_embeds)]
            reports += self._written(image_embeds, options or self._model.config.generation)
            features.append(_mean(image_features))
            told = self._score_references(image_embeds, golds)
            nats += told[0]
            tokens += told[1]
            cut += told[2]
        return Run(tuple(reports), torch.cat(features), tuple(nats), tuple(tokens), cut)

    @torch.inference_mode()
    def _encoded(self, images: Sequence[Path], doing: str) -> Iterator[Tensor]:
        """Image features of one batch after the other."""
        config = self._model.config
        paths = iter(tqdm(images, desc=doing, unit="image", leave=False))
        while chunk := list(islice(paths, self._slots)):
            if chunk[0].suffix == ".json":  # a data set of features, see feature_json
                yield torch.from_numpy(np.stack([read_embedding(path) for path in chunk])).to(self._device)
                continue
            pixel_values = np.stack([preprocess(_read(path, config.input), config.preprocess) for path in chunk])
            yield self._model.network.vision(torch.from_numpy(pixel_values).to(self._device))

    def _written(self, image_embeds: Tensor, options: GenerationOptions) -> list[str]:
        tokens = self._model.config.tokenizer
        engine: Engine[DecodeRequest] = Engine(
            self._decoder,
            slots=len(image_embeds),
            eos_token_ids=[tokens.eos_token_id],
            pad_token_id=tokens.pad_token_id,
            detokenize=self._detokenize,
        )
        requests = {str(i): DecodeRequest(embeds, self._prompt_ids, options) for i, embeds in enumerate(image_embeds)}
        done = engine.decode(requests)
        texts = [cut_at_stop(self._detokenize(done[key][0].token_ids), options.stop) for key in requests]
        return texts if self._prompter is None else [self._prompter.answer(text) for text in texts]

    def _score_references(self, image_embeds: Tensor, references: Sequence[str]) -> tuple[list[float], list[int], int]:
        """Nats and tokens of each reference by teacher forcing, and how many were cut.

        A prefill gives the first token of each, one forward pass all the others.
        """
        decoder, special = self._decoder, self._model.config.tokenizer
        prefix = decoder.prefix_length(image_embeds.shape[1], self._prompt_ids)
        room = decoder.max_positions - prefix + 1
        whole = [
            [*self._model.tokenizer.encode(text, add_special_tokens=False).ids, special.eos_token_id]
            for text in references
        ]
        ids = [torch.tensor(row[:room]) for row in whole]
        token_ids = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True, padding_value=special.pad_token_id)
        token_ids = token_ids.to(image_embeds.device)
        count, length = token_ids.shape
        slots, state = slice(0, count), decoder.new_state(count)
        state.cache.reserve(count, prefix + length)
        prompt_ids = torch.tensor([self._prompt_ids] * count, device=image_embeds.device)
        logits = decoder.prefill(state, state.cache.prefix_places(slots, prefix), image_embeds, prompt_ids)[:, None]
        if length > 1:
            positions = torch.arange(prefix, prefix + length - 1, device=image_embeds.device).expand(count, -1)
            places = state.cache.places(slots, positions, prefix + length - 1)
            seen = torch.ones(count, prefix + length - 1, dtype=torch.bool, device=image_embeds.device)
            if decoder.hidden_from_all is not None:
                seen[:, prefix:] = token_ids[:, :-1] != decoder.hidden_from_all
            columns = torch.arange(prefix + length - 1, device=image_embeds.device)
            mask = seen[:, None, None] & (columns <= positions[:, None, :, None])
            logits = torch.cat([logits, decoder.step(state, places, token_ids[:, :-1], positions, mask)], dim=1)
        nats = torch.nn.functional.cross_entropy(logits.float().transpose(1, 2), token_ids, reduction="none")
        sums = [float(row[: len(one)].sum()) for row, one in zip(nats, ids, strict=True)]
        return sums, [len(one) for one in ids], sum(len(row) > room for row in whole)

    def _detokenize(self, token_ids: Sequence[int]) -> str:
        return self._model.tokenizer.decode(list(token_ids), skip_special_tokens=True)


def _read(path: Path, config: InputConfig) -> Radiograph:
    try:
        return read_radiograph(path.read_bytes(), config)
    except (OSError, InputError) as error:
        raise DatasetError(f"{path} cannot be evaluated: {error}") from error


def _mean(image_features: Tensor) -> Tensor:
    """Mean over the tokens of an image; an encoder that gives one vector has nothing to average."""
    return (image_features.mean(dim=1) if image_features.ndim == 3 else image_features).cpu()
