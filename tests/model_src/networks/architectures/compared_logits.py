"""Logits of a folder by transformers and by the imported network, for some fixed inputs."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from prelim.decoders.decoder import IMAGE
from prelim.networks.trained_decoder import serving_decoder
from tests.model_src.networks.architectures import small_blip as blip
from tests.model_src.networks.architectures import small_encoder_decoder as ved
from tests.model_src.networks.architectures import small_qwen2_5_vl as qwen


def ved_logits(original: Any, network: Any) -> tuple[Tensor, Tensor]:
    """By teacher forcing."""
    torch.manual_seed(1)
    pixels, ids = torch.randn(2, 3, ved.SIDE, ved.SIDE), torch.randint(3, ved.VOCABULARY, (2, 9))
    embeds = network.connector(network.vision(pixels))
    found = network.decoder.teacher_forcing(embeds, ids[:, :1], torch.cat([ids[:, 1:], ids[:, :1]], dim=1))
    return original(**ved.image_inputs(original, pixels), decoder_input_ids=ids).logits, found


def blip_logits(original: Any, network: Any) -> tuple[Tensor, Tensor]:
    """By teacher forcing, in 64 bits: BLIP's own attention sums in another order."""
    torch.manual_seed(1)
    original, network = original.double(), network.double()
    pixels, ids = torch.randn(2, 3, blip.SIDE, blip.SIDE).double(), torch.randint(3, blip.VOCABULARY, (2, 9))
    embeds = network.connector(network.vision(pixels))
    found = network.decoder.teacher_forcing(embeds, ids[:, :1], torch.cat([ids[:, 1:], ids[:, :1]], dim=1))
    return original(pixel_values=pixels, input_ids=ids).logits, found


def with_images(
    image_token: int, vocabulary: int, side: int, **types: bool
) -> Callable[[Any, Any], tuple[Tensor, Tensor]]:
    """Image embeddings, and logits of a text with two images, as they are trained and as they are served."""

    def logits(original: Any, network: Any) -> tuple[Tensor, Tensor]:
        torch.manual_seed(1)
        pixels, report = torch.randn(2, 3, side, side), torch.arange(20)[None] * 7 % (vocabulary - 7)
        images = torch.stack(list(original.model.get_image_features(pixels).pooler_output))
        image = [image_token] * images.shape[1]
        ids = torch.tensor([[1, 5, *image, 6, 7, *image, 8]])
        whole = torch.cat([ids, report[:, :-1]], dim=1)
        given = {"token_type_ids": (whole == image_token).long()} if types else {}
        expected = original(input_ids=whole, pixel_values=pixels, **given).logits[:, ids.shape[1] - 1 :]
        embeds, prompt = network.connector(network.vision(pixels)), torch.tensor([[1, 5, IMAGE, 6, 7, IMAGE, 8]])
        found = [
            decoder.teacher_forcing(embeds.flatten(0, 1)[None], prompt, report)
            for decoder in (network.decoder, serving_decoder(network.decoder))
        ]
        parts = ((images, expected, expected), (embeds, *found))
        theirs, ours = (torch.cat([part.flatten() for part in three]) for three in parts)
        return theirs, ours

    return logits


def qwen_logits(original: Any, network: Any) -> tuple[Tensor, Tensor]:
    """As `with_images`, of two images of different sides, one of which is not in whole windows."""
    torch.manual_seed(1)
    unit, report = network.vision.merge * network.vision.patch_size, torch.arange(20)[None] * 7 % qwen.VOCABULARY
    pictures = [torch.randn(1, 3, rows * unit, columns * unit) for rows, columns in ((4, 7), (6, 3))]
    read = qwen.patches_of(pictures, original.config.vision_config)
    images = torch.cat(original.model.get_image_features(**read).pooler_output)
    embeds = [network.connector(network.vision(picture))[0] for picture in pictures]
    grids = [(one.shape[0], one.shape[1]) for one in embeds]
    prompt = torch.tensor(
        [[1, 5, *[IMAGE] * len(embeds[0].flatten(0, 1)), 6, *[IMAGE] * len(embeds[1].flatten(0, 1)), 8]]
    )
    ids = prompt.masked_fill(prompt == IMAGE, original.config.image_token_id)
    whole = torch.cat([ids, report[:, :-1]], dim=1)
    expected = original(**qwen.inputs_of(whole, read)).logits[:, ids.shape[1] - 1 :]
    flat = torch.cat([one.flatten(0, 1) for one in embeds])[None]
    found = [
        decoder.teacher_forcing(flat, prompt, report, grids)
        for decoder in (network.decoder, serving_decoder(network.decoder))
    ]
    parts = ((images, expected, expected), (flat, *found))
    theirs, ours = (torch.cat([part.flatten() for part in three]) for three in parts)
    return theirs, ours
