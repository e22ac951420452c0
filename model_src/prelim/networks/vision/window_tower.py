"""The vision tower of Qwen2.5-VL: pictures of any sides, attention within windows in most layers.

Written so that rows and columns stay sizes that an exported network gets with its input: patches are kept by windows,
the last of which are filled up, and what fills them is looked at by nobody. `transformers` computes an index instead.

Source: Bai et al., "Qwen2.5-VL Technical Report", 2025, section 2.1.1.
"""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention, silu

from prelim.networks.vision.attention_by_head import attend_by_head


class _Layer(nn.Module):
    """Attention and a gated feed-forward, each normalized before and added after."""

    def __init__(self, width: int, heads: int, feedforward: int, norm_eps: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = (nn.RMSNorm(width, eps=norm_eps) for _ in range(2))
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.gate, self.up = (nn.Linear(width, feedforward) for _ in range(2))
        self.down = nn.Linear(feedforward, width)

    def forward(self, x: Tensor, turns: Sequence[Tensor], there: Tensor, *, by_head: bool) -> Tensor:
        """One layer, shape (groups, patches, width) in and out; patches of a group look at each other.

        turns   : cosines and sines, each of shape (groups, patches, 1, head width)
        there   : Tensor of bool, shape (groups, 1, 1, patches): False for patches that fill a window up
        by_head : one head after the other, so that the scores of only one of them are in memory
        """
        groups, patches, width = x.shape
        qkv = self.qkv(self.norm1(x)).reshape(groups, patches, 3, self.heads, width // self.heads)
        query, key = (_rotate(part, *turns).transpose(1, 2) for part in (qkv[:, :, 0], qkv[:, :, 1]))
        value = qkv[:, :, 2].transpose(1, 2)
        attend = attend_by_head if by_head else scaled_dot_product_attention
        gathered = attend(query, key, value, there)
        x = x + self.out(gathered.transpose(1, 2).reshape(groups, patches, width))
        normed = self.norm2(x)
        fed: Tensor = self.down(silu(self.gate(normed)) * self.up(normed))
        return x + fed


def _rotate(x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return x * cosines + torch.cat([-second, first], dim=-1) * sines


class WindowTower(nn.Module):
    """Encodes pictures as grids of image tokens, each of `merge` x `merge` patches.

    window       : side of a window, in image tokens
    whole_layers : the numbers of the layers in which every patch looks at the whole picture
    rotary_base  : of the positions in rows and columns, each of which turns a half of a head

    Raises ValueError for heads whose width is not a multiple of 4.
    """

    def __init__(
        self,
        *,
        patch_size: int = 14,
        merge: int = 2,
        width: int = 1280,
        layers: int = 32,
        heads: int = 16,
        feedforward: int = 3420,
        window: int = 4,
        whole_layers: Sequence[int] = (7, 15, 23, 31),
        rotary_base: float = 10000.0,
        norm_eps: float = 1e-6,
    ) -> None:
        super().__init__()
        if width % (4 * heads):
            raise ValueError(f"width is {width} with {heads} heads; expected a multiple of {4 * heads}")
        self.patch_size, self.merge, self.window = patch_size, merge, window
        self.whole_layers = tuple(whole_layers)
        self.patches = nn.Linear(3 * patch_size**2, width, bias=False)
        self.layers = nn.ModuleList(_Layer(width, heads, feedforward, norm_eps) for _ in range(layers))
        quarter = width // heads // 4
        # Computed, not stored, so they must exist even on the meta device.
        exponents = torch.arange(quarter, dtype=torch.float32, device="cpu") / quarter
        self.register_buffer("frequencies", 1.0 / rotary_base**exponents, persistent=False)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Encode pictures of one size.

        pixel_values : Tensor, shape (batch, 3, rows, columns) in pixels, multiples of merge * patch_size
        returns      : image_features, Tensor, shape (batch, rows, columns, merge ** 2 * width) in image tokens
        """
        side = self.merge * self.patch_size
        batch, rows, columns = pixel_values.shape[0], pixel_values.shape[2] // side, pixel_values.shape[3] // side
        cut = pixel_values.reshape(batch, 3, rows, self.merge, self.patch_size, columns, self.merge, self.patch_size)
        patches = cut.permute(0, 2, 5, 3, 6, 1, 4, 7).reshape(batch, rows, columns, self.merge**2, -1)
        x = self._by_windows(self.patches(patches))
        windows, size, width = x.shape[1:]
        angles = self._angles(rows, columns)
        marked = self._by_windows(torch.cat([angles, torch.ones_like(angles[..., :1])], dim=-1))
        turns, there = [marked[..., :-1].cos(), marked[..., :-1].sin()], marked[..., -1:] > 0
        apart = [turn.expand(batch, -1, -1, -1).reshape(batch * windows, size, 1, -1) for turn in turns]
        apart_there = there.expand(batch, -1, -1, -1).reshape(batch * windows, 1, 1, size)
        whole = [turn.reshape(1, windows * size, 1, -1) for turn in turns]
        whole_there = there.reshape(1, 1, 1, windows * size)
        for number, layer in enumerate(self.layers):
            if number in self.whole_layers:
                x = layer(x.reshape(batch, windows * size, width), whole, whole_there, by_head=True)
            else:
                x = layer(x.reshape(batch * windows, size, width), apart, apart_there, by_head=False)
        return self._as_grid(x.reshape(batch, windows, size, width), rows, columns)

    def _angles(self, rows: int, columns: int) -> Tensor:
        """Of the rotary positions, shape (1, rows, columns, patches of a token, head width)."""
        frequencies = cast("Tensor", self.frequencies)
        inner = torch.arange(self.merge, device=frequencies.device)
        down, across = (
            (torch.arange(count, device=frequencies.device)[:, None] * self.merge + inner)[..., None] * frequencies
            for count in (rows, columns)
        )
        shape = (rows, columns, self.merge, self.merge, len(frequencies))
        both = [down[:, None, :, None].expand(shape), across[None, :, None].expand(shape)]
        return torch.cat([*both, *both], dim=-1).flatten(2, 3)[None]

    def _by_windows(self, x: Tensor) -> Tensor:
        """(batch, rows, columns, patches of a token, n) -> (batch, windows, patches of a window, n), filled with 0."""
        side, (batch, rows, columns, patches, width) = self.window, x.shape
        down, across = (rows + side - 1) // side, (columns + side - 1) // side
        # More than needed is added and cut off, so that the same operations serve all sizes.
        x = torch.cat([x, x.new_zeros(batch, side, columns, patches, width)], dim=1)[:, : down * side]
        x = torch.cat([x, x.new_zeros(batch, down * side, side, patches, width)], dim=2)[:, :, : across * side]
        cut = x.reshape(batch, down, side, across, side, patches, width).transpose(2, 3)
        return cut.reshape(batch, down * across, side * side * patches, width)

    def _as_grid(self, x: Tensor, rows: int, columns: int) -> Tensor:
        """What `_by_windows` gave -> (batch, rows, columns, patches of a token * n)."""
        side, batch = self.window, x.shape[0]
        down, across = (rows + side - 1) // side, (columns + side - 1) // side
        cut = x.reshape(batch, down, across, side, side, self.merge**2 * x.shape[-1]).transpose(2, 3)
        return cut.reshape(batch, down * side, across * side, -1)[:, :rows, :columns]
