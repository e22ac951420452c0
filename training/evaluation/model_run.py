"""A model folder run in this process: its reports by its own options, and how likely it finds the references."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence

from prelim.decoders.decoder import PADDING, expand_images
from prelim.encoding.gate import mean_features
from prelim.generation.constraint import Constraints
from prelim.generation.decode_request import DecodeRequest
from prelim.generation.engine import Engine
from prelim.generation.hypothesis import Hypothesis
from prelim.generation.options import GenerationOptions
from prelim.generation.report_reader import ReportReader
from prelim.networks.model_folder import Model
from prelim.networks.trained_decoder import serving_decoder
from training.evaluation.encoding import ServedEncoder


@dataclass(frozen=True)
class Run:
    """What a model gave for a number of images.

    reports  : its texts
    written  : their tokens
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
    written: tuple[Hypothesis, ...] = ()


class ModelRunner:
    """Encodes images, writes reports and reads references, by the networks that are exported and served.

    slots : how many images are taken together
    frame : of Source
    precision : of the decoder
    """

    def __init__(
        self, model: Model, slots: int = 16, device: str = "cpu", frame: int = 0, precision: str = "fp32"
    ) -> None:
        self._model, self._device = model, device
        self._encoder = ServedEncoder(model.network.vision, model.config, slots, device, frame)
        model.network.connector.to(device)
        self._decoder = serving_decoder(model.network.decoder, precision, packed=False, device=device)
        self._prompter = model.config.prompter(model.tokenizer)
        self._reader = ReportReader(model.tokenizer, model.config.output)
        self.detokenize = self._reader.detokenize
        self._constraints = Constraints(
            model.tokenizer,
            model.config.tokenizer.eos_token_ids,
            model.config.decoder.get("vocab_size"),
            model.config.output,
        )

    def features(self, images: Sequence[Path]) -> Tensor:
        """Mean image features, shape (images, width)."""
        return torch.from_numpy(self._encoder.means(images))

    @torch.inference_mode()
    def run(
        self,
        images: Sequence[Path],
        references: Sequence[str],
        options: GenerationOptions | None = None,
        prompts: Sequence[str] = (),
    ) -> Run:
        """Reports for the images, and the probabilities of their references.

        options : how to decode; None takes the model's own
        prompts : what each image is asked; where it is empty, and in models that take no prompts, the model's default
        """
        asked = prompts if prompts and self._prompter.takes_prompts else [""] * len(images)
        reports: list[str] = []
        written: list[Hypothesis] = []
        features, nats, tokens, cut = [], [], [], 0
        for image_features in self._encoder.encode(images, "writing"):
            image_embeds = self._model.network.connector(image_features)
            golds = references[len(reports) :][: len(image_embeds)]
            prompt_ids = [self._prompter.ids(words, None) for words in asked[len(reports) :][: len(image_embeds)]]
            chosen = options or self._model.config.generation
            best = self._write(image_embeds, prompt_ids, chosen)
            written += best
            reports += (self._reader.read(one.token_ids, chosen.stop, self._prompter.answer).text for one in best)
            features.append(torch.from_numpy(mean_features(image_features.cpu().numpy())))
            told = self._score_references(image_embeds, prompt_ids, golds)
            nats += told[0]
            tokens += told[1]
            cut += told[2]
        return Run(tuple(reports), torch.cat(features), tuple(nats), tuple(tokens), cut, tuple(written))

    def _write(
        self, image_embeds: Tensor, prompt_ids: Sequence[tuple[int, ...]], options: GenerationOptions
    ) -> list[Hypothesis]:
        """The best sequence of each image."""
        tokens = self._model.config.tokenizer
        engine: Engine[DecodeRequest] = Engine(
            self._decoder,
            slots=len(image_embeds),
            eos_token_ids=tokens.eos_token_ids,
            pad_token_id=tokens.pad_token_id,
            detokenize=self._reader.report_so_far,
            constraints=self._constraints,
        )
        requests = {
            str(i): DecodeRequest(embeds, ids, options)
            for i, (embeds, ids) in enumerate(zip(image_embeds, prompt_ids, strict=True))
        }
        done = engine.decode(requests)
        return [done[key][0] for key in requests]

    def _score_references(
        self, image_embeds: Tensor, prompt_ids: Sequence[tuple[int, ...]], references: Sequence[str]
    ) -> tuple[list[float], list[int], int]:
        """Nats and tokens of each reference by teacher forcing, and how many were cut."""
        device = image_embeds.device
        rooms = [
            self._decoder.max_positions - len(expand_images(prompt, (image_embeds.shape[1],))) + 1
            for prompt in prompt_ids
        ]
        end = self._model.config.tokenizer.eos_token_ids[0]
        whole = [[*self._model.tokenizer.encode(text, add_special_tokens=False).ids, end] for text in references]
        ids = [torch.tensor(row[:room], device=device) for row, room in zip(whole, rooms, strict=True)]
        report_ids = pad_sequence(ids, batch_first=True, padding_value=PADDING)
        prompts = [torch.tensor(prompt, device=device) for prompt in prompt_ids]
        padded = pad_sequence(prompts, batch_first=True, padding_value=PADDING)
        logits = self._decoder.teacher_forcing(image_embeds, padded, report_ids)
        nats = cross_entropy(logits.float().transpose(1, 2), report_ids, ignore_index=PADDING, reduction="none")
        return (
            nats.sum(dim=1).tolist(),
            [len(row) for row in ids],
            sum(len(row) > room for row, room in zip(whole, rooms, strict=True)),
        )

    def places(self, hypothesis: Hypothesis) -> tuple[int, ...] | None:
        """Where the characters of a report are in the text of its tokens, for models that write more than reports."""
        if self._model.config.output is None:
            return None
        return self._reader.read(hypothesis.token_ids, self._model.config.generation.stop, self._prompter.answer).places
