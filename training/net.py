"""The network: a small U-Net from prepared stains to foreground, boundary, distance and offsets."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import nn

from histoquant.network import CHANNELS

WIDTHS = (16, 32, 48, 96, 128)
MAPS = 5
"""Logits of fiber and boundary, distance, offsets (x, y); the offsets teach, and are not shipped."""


def _block(inputs: int, outputs: int, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, dilation, dilation, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


class FiberNet(nn.Module):
    """U-Net; one pixel of input and output is 1 um, the deepest level 16 um.

    Parameters
    ----------
    widths : tuple of int
        Channels per level.
    """

    def __init__(self, widths: tuple[int, ...] = WIDTHS) -> None:
        super().__init__()
        pairs = list(pairwise(widths))
        self.stem = _block(CHANNELS, widths[0])
        self.down = nn.ModuleList(nn.Sequential(_block(a, b, 2), _block(b, b)) for a, b in pairs)
        self.bottom = _block(widths[-1], widths[-1], dilation=2)
        self.squeeze = nn.ModuleList(nn.Conv2d(b, a, 1) for a, b in pairs)
        self.up = nn.ModuleList(_block(2 * a, a) for a, _ in pairs)
        self.head = nn.Conv2d(widths[0], MAPS, 1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Logits of foreground and boundary, distance, offsets; shape (n, MAPS, rows, columns)."""
        levels = [self.stem(image)]
        for down in self.down:
            levels.append(down(levels[-1]))
        deep = self.bottom(levels.pop())
        for squeeze, up in zip(reversed(self.squeeze), reversed(self.up), strict=True):
            deep = nn.functional.interpolate(squeeze(deep), scale_factor=2.0, mode="nearest")
            deep = up(torch.cat([levels.pop(), deep], dim=1))
        result: torch.Tensor = self.head(deep)
        return result
