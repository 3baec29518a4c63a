"""One command: a trained network from float32 to int8, calibrated on tiles it was trained with."""

from __future__ import annotations

import argparse
import hashlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import onnx
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from training.scenes import render_scenes, restain_scenes
from training.tiles import cut_tile

INPUT, OUTPUT = "stains", "maps"


class _Tiles(CalibrationDataReader):
    def __init__(self, images: Iterator[npt.NDArray[np.float32]]) -> None:
        self._images = images

    def get_next(self) -> dict[str, npt.NDArray[np.float32]] | None:
        image = next(self._images, None)
        return None if image is None else {INPUT: image[None]}


def main() -> None:
    """Quantize all but the last layer: weights per output channel, activations by their range over tiles."""
    args = _parse()
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as folder:
        merged = Path(folder) / "merged.onnx"
        quant_pre_process(args.model, merged, skip_symbolic_shape=True)
        # One range would serve five maps that need their own.
        last = [node.name for node in onnx.load(merged).graph.node if OUTPUT in node.output]
        quantize_static(
            merged,
            args.out,
            _Tiles(_draw_tiles(args)),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            # Seven bits of weight: processors without VNNI add pairs of products in 16 bits.
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=last,
        )
    print(hashlib.sha256(args.out.read_bytes()).hexdigest(), args.out)


def _draw_tiles(args: argparse.Namespace) -> Iterator[npt.NDArray[np.float32]]:
    """Tiles of rendered sections and, alternately, of stained photographs."""
    rngs = np.random.default_rng(args.seed).spawn(4)
    pools = [list(render_scenes(rngs[0], args.sections, 600.0))]
    if args.real:
        names = sorted(path.name.removesuffix("_fibers.png") for path in args.real.glob("*_fibers.png"))
        names = [name for name in names if name not in args.without]
        tool = args.restain or args.real.parents[2] / "tools" / "restain.py"
        pools.append(list(restain_scenes(rngs[1], args.real, tool, names, args.variants)))
    for number in range(args.tiles):
        pool = pools[number % len(pools)]
        yield cut_tile(rngs[2], pool[int(rngs[2].integers(len(pool)))], 192).image


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m training.quantize", description=__doc__)
    parser.add_argument("--model", type=Path, default=Path("fibers_float32.onnx"), help="as trained")
    parser.add_argument("--out", type=Path, default=Path("fibers_int8.onnx"))
    parser.add_argument("--real", type=Path, help="folder of the photographs it was trained with")
    parser.add_argument("--restain", type=Path, help="the script that stains them anew")
    parser.add_argument("--without", nargs="*", default=[], help="photographs to leave out")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sections", type=int, default=16, help="rendered sections")
    parser.add_argument("--variants", type=int, default=8, help="stainings of the photographs")
    parser.add_argument("--tiles", type=int, default=64)
    return parser.parse_args()


if __name__ == "__main__":
    main()
