"""Captions of pictures by greedy search, as plain as possible: what a served model must also say."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from model_src.architectures.architecture import Network
from model_src.model_config import ModelConfig
from model_src.preprocess import preprocess
from model_src.radiograph import read_radiograph
from training.wordpiece import BOS, EOS, PAD


def pixel_batches(images: Iterable[Path], config: ModelConfig, batch_size: int = 64) -> Iterator[Tensor]:
    """Image files as the server reads and preprocesses them, in batches of shape (batch, channels, size, size)."""
    paths = iter(images)
    while chunk := list(islice(paths, batch_size)):
        radiographs = [read_radiograph(path.read_bytes(), config.input) for path in chunk]
        pixel_values = np.stack([preprocess(radiograph, config.preprocess) for radiograph in radiographs])
        yield torch.from_numpy(pixel_values).contiguous(memory_format=torch.channels_last)


@torch.inference_mode()
def greedy_captions(network: Network, tokenizer: Tokenizer, image_features: Tensor, max_new_tokens: int) -> list[str]:
    """One caption a picture: the likeliest token each time, until [SEP].

    image_features : Tensor, shape (batch, num_tokens, width), from the vision encoder of a network in evaluation mode
    """
    image_embeds = network.connector(image_features)
    token_ids = torch.full((len(image_embeds), 1), BOS)
    ended = torch.zeros(len(image_embeds), dtype=torch.bool)
    for _ in range(max_new_tokens):
        chosen = network.decoder(image_embeds, token_ids)[:, -1].argmax(dim=-1).masked_fill(ended, PAD)
        token_ids = torch.cat([token_ids, chosen[:, None]], dim=1)
        ended |= chosen == EOS
        if ended.all():
            break
    return tokenizer.decode_batch(token_ids.tolist(), skip_special_tokens=True)


@torch.inference_mode()
def caption_images(
    network: Network, tokenizer: Tokenizer, config: ModelConfig, images: Sequence[Path]
) -> tuple[list[str], Tensor]:
    """Captions of image files, and their mean image features, shape (images, width)."""
    captions: list[str] = []
    features = []
    for pixel_values in pixel_batches(images, config):
        image_features = network.vision(pixel_values)
        captions += greedy_captions(network, tokenizer, image_features, config.generation.max_new_tokens)
        features.append(image_features.mean(dim=1))
    return captions, torch.cat(features)
