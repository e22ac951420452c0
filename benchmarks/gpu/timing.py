"""Times on a GPU, whose work is done when it has been waited for."""

import statistics
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention

from benchmarks.decode.point import Point
from benchmarks.gpu.pair import ModelPair, Watched
from prelim.decoders.captured import captures_of


def wait(device: torch.device) -> None:
    """Wait until the device has done its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """Seconds that the work takes."""
    wait(device)
    began = time.perf_counter()
    work()
    wait(device)
    return time.perf_counter() - began


def each(work: Callable[[], object], device: torch.device, times: int) -> float:
    """Seconds of one of several runs, the fastest of three series, after one that does not count."""
    work()
    return min(seconds(lambda: [work() for _ in range(times)], device) for _ in range(3)) / times


def copied_per_second(device: torch.device, size: int) -> float:
    """Bytes read and written in a second by a copy of so many bytes."""
    source = torch.zeros(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * size / each(lambda: target.copy_(source), device, 10)


def steps(pair: ModelPair, point: Point, new_tokens: int, rounds: int) -> Mapping[str, float]:
    """Seconds of a step: `generate`, ours captured, ours without; and what one captured step takes by itself.

    All take turns. What a text takes is compared with one of two tokens, so that the prefix does not count.
    """
    watched: Any = Watched(pair.captured)
    ours, plain = pair.engine(watched, point), pair.engine(pair.plain, point)
    contenders: Mapping[str, Callable[[int], object]] = {
        "generate": partial(pair.generate, point),
        "captured": partial(pair.decode, ours, point),
        "plain": partial(pair.decode, plain, point),
    }
    taken: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(rounds + 1):
        for name, decode in contenders.items():
            times = [seconds(partial(decode, tokens), pair.device) for tokens in (2, new_tokens)]
            # In the first turn memory is allocated, and steps are captured.
            if turn:
                taken[name].append((times[1] - times[0]) / (new_tokens - 2))
    found = {name: statistics.median(times) for name, times in taken.items()}
    with torch.inference_mode():
        return found | {"step alone": each(watched.again, pair.device, 20)}


def attention(pair: ModelPair, point: Point, columns: int = 256) -> Mapping[str, float]:
    """Seconds of the attention of all layers in a step, by two ways of PyTorch, captured."""
    config, device = pair.library.config, pair.device
    heads, width = config.num_attention_heads, config.hidden_size // config.num_attention_heads
    shape = (point.images, heads, point.beams, width)
    query = torch.randn(shape, device=device, dtype=pair.dtype)
    key, value = (torch.randn(*shape[:2], columns, width, device=device, dtype=pair.dtype) for _ in range(2))
    mask = torch.ones(point.images, 1, point.beams, columns, dtype=torch.bool, device=device)
    bias = torch.zeros(mask.shape, dtype=pair.dtype, device=device)
    ways = {
        "sdpa": lambda: scaled_dot_product_attention(query, key, value, attn_mask=mask),
        "two products": lambda: (query @ key.mT * width**-0.5 + bias).softmax(-1) @ value,
    }
    captures = captures_of(device)
    with torch.inference_mode():
        return {name: each(captures(way)[0], device, 20) * config.num_hidden_layers for name, way in ways.items()}
