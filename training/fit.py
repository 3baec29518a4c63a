"""Fit the network to tiles, and write it as ONNX."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import nn

from histoquant.network import CHANNELS, OUTPUTS, STEPS
from training.net import FiberNet
from training.scenes import Scene
from training.tiles import Tile, cut_tile, value_bytes


def fit_network(
    net: FiberNet,
    scenes: list[Scene],
    photographs: list[Scene],
    rng: np.random.Generator,
    steps: int,
    *,
    batch: int,
    size: int,
    rate: float,
    half: bool = False,
) -> None:
    """Train in place: AdamW, warm-up and cosine, half of every batch from photographs if there are any.

    `half` computes in bfloat16: quicker where the processor has it, ten times slower where it does not.
    """
    optimizer = torch.optim.AdamW(net.parameters(), lr=rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, steps))
    tiles = draw_tiles(rng, scenes, photographs, size)
    net.train().to(memory_format=torch.channels_last)
    start, seen = time.monotonic(), 0.0
    for step in range(1, steps + 1):
        image, target, weight = _stack([next(tiles) for _ in range(batch)])
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            output = net(image)
        loss = compute_loss(output.float(), target, weight)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 5.0)
        optimizer.step()
        schedule.step()
        seen = loss.item() if step == 1 else 0.98 * seen + 0.02 * loss.item()
        if step % 50 == 0 or step == steps:
            print(f"step {step}/{steps} loss {seen:.4f} {time.monotonic() - start:.0f} s", flush=True)
    net.eval()


def _rate(step: int, steps: int) -> float:
    warm = min(1.0, (step + 1) / 50)
    return warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / steps)))


def draw_tiles(
    rng: np.random.Generator, scenes: list[Scene], photographs: list[Scene], size: int
) -> Iterator[Tile]:
    """Tiles without end, alternately of photographs and of rendered sections."""
    while True:
        for pool in (photographs, scenes):
            if pool:
                yield cut_tile(rng, pool[int(rng.integers(len(pool)))], size)


def _stack(tiles: list[Tile]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    image, target, weight = (torch.from_numpy(np.stack(part)) for part in zip(*tiles, strict=True))
    return image.contiguous(memory_format=torch.channels_last), target, weight


def compute_loss(output: torch.Tensor, target: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of fiber and boundary, and absolute error of distance and offsets."""
    entropy = nn.functional.binary_cross_entropy_with_logits(output[:, :2], target[:, :2], reduction="none")
    error = (output[:, 2:] - target[:, 2:]).abs()
    fiber = target[:, 0] * weight
    total = weight.sum() + 1
    distance = (error[:, 0] * weight).sum() / total
    offsets = (error[:, 1:] * fiber[:, None]).sum() / (fiber.sum() + 1)
    return (entropy * weight[:, None]).sum() / total + 2 * distance + 0.5 * offsets


def export_network(net: FiberNet, path: Path) -> None:
    """Write the network as ONNX with free rows and columns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    free = {2: "rows", 3: "columns"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            net.eval().to(memory_format=torch.contiguous_format),
            (torch.zeros(1, CHANNELS, 64, 64),),
            str(path),
            dynamo=False,
            opset_version=17,
            input_names=["stains"],
            output_names=["maps"],
            dynamic_axes={"stains": free, "maps": free},
        )


def write_reference(net: FiberNet, path: Path) -> None:
    """Write a small input and this framework's maps of it, for the test of inference."""
    noise = np.random.default_rng(0).standard_normal((CHANNELS, 32, 32))
    image = np.clip(np.rint(noise / STEPS.unit) + STEPS.zero, 0, 255).astype(np.uint8)
    with torch.no_grad():
        maps = net.eval()(torch.from_numpy(value_bytes(image))[None])[0, :OUTPUTS]
        maps[:2] = torch.sigmoid(maps[:2])
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, image=image, maps=maps.numpy())
