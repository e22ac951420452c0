"""Random changes of images that keep the report valid: no flips, unless they are asked for."""

import torch
from torch import Generator, Tensor
from torch.nn.functional import affine_grid, conv2d, grid_sample

from training.settings import Augmentation


def augment(images: Tensor, size: int, settings: Augmentation, generator: Generator) -> Tensor:
    """A new image from each image.

    images  : Tensor of float32, shape (batch, side, side), in [0, 1]
    size    : of the new images, in pixels
    returns : Tensor of float32, shape (batch, size, size), in [0, 1]
    """
    x = images[:, None]
    x = grid_sample(x, _grid(len(x), size, settings, generator), padding_mode="reflection", align_corners=False)
    x = _blur(x, settings.blur, generator)
    x = _exposure(x, settings, generator)
    x = _erase(x, settings.erase, generator)
    mirrored = _uniform(len(x), generator, 0, 1) < settings.flip
    return torch.where(mirrored, x.flip(-1), x).squeeze(1)


def _uniform(count: int, generator: Generator, low: float, high: float) -> Tensor:
    """Shape (count, 1, 1, 1)."""
    return torch.rand(count, 1, 1, 1, generator=generator) * (high - low) + low


def _grid(count: int, size: int, settings: Augmentation, generator: Generator) -> Tensor:
    """Where each output pixel is read: rotated, zoomed, stretched and shifted; (count, size, size, 2)."""
    angle, zoom, aspect, right, down = (
        _uniform(count, generator, -limit, limit).flatten()
        for limit in (
            settings.rotation * torch.pi / 180,
            settings.zoom,
            settings.aspect,
            2 * settings.shift,  # the grid runs from -1 to 1
            2 * settings.shift,
        )
    )
    across, along = torch.exp(zoom + aspect / 2), torch.exp(zoom - aspect / 2)
    theta = torch.stack(
        [
            torch.stack([across * angle.cos(), -along * angle.sin(), right], dim=1),
            torch.stack([across * angle.sin(), along * angle.cos(), down], dim=1),
        ],
        dim=1,
    )
    return affine_grid(theta, [count, 1, size, size], align_corners=False)


def _blur(x: Tensor, fraction: float, generator: Generator) -> Tensor:
    """A 3 x 3 binomial blur of some images."""
    chosen = _uniform(len(x), generator, 0, 1).flatten() < fraction
    row = torch.tensor([0.25, 0.5, 0.25])
    x[chosen] = conv2d(x[chosen], (row[:, None] * row)[None, None], padding=1)
    return x


def _exposure(x: Tensor, settings: Augmentation, generator: Generator) -> Tensor:
    """Other gamma, contrast, brightness and noise: what detectors, windows and post-processing change."""
    x = x.clamp(1e-4, 1) ** torch.exp(_uniform(len(x), generator, -settings.gamma, settings.gamma))
    mean = x.mean(dim=(2, 3), keepdim=True)
    x = (x - mean) * (1 + _uniform(len(x), generator, -settings.contrast, settings.contrast)) + mean
    x = x + _uniform(len(x), generator, -settings.brightness, settings.brightness)
    # Half of the images stay clean: those that are served have no added noise.
    level = _uniform(len(x), generator, -settings.noise, settings.noise)
    noisy = level.flatten() > 0
    x[noisy] += level[noisy] * torch.randn(x[noisy].shape, generator=generator)
    return x.clamp(0, 1)


def _erase(x: Tensor, fraction: float, generator: Generator) -> Tensor:
    """One rectangle of some images in a flat gray, so that no single place decides."""
    count, size = len(x), x.shape[-1]
    height, width = (_uniform(count, generator, 0.15, 0.4) * size for _ in range(2))
    top, left = (_uniform(count, generator, 0, 1) * (size - extent) for extent in (height, width))
    places = torch.arange(size, dtype=x.dtype)
    rows, columns = places.view(1, 1, -1, 1), places.view(1, 1, 1, -1)
    inside = (rows >= top) & (rows < top + height) & (columns >= left) & (columns < left + width)
    chosen = _uniform(count, generator, 0, 1) < fraction
    gray = _uniform(count, generator, 0, 1)
    return torch.where(inside & chosen, gray, x)
