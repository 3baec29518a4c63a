"""One command: render, stain anew, train, export."""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path

import cv2
import numpy as np
import torch

from training.fit import export_network, fit_network, write_reference
from training.net import FiberNet
from training.scenes import Scene, render_scenes, restain_scenes


def main() -> None:
    """Train on rendered tiles, then on rendered and photographed ones."""
    args = _parse()
    torch.manual_seed(args.seed)
    torch.set_num_threads(args.threads)
    torch.use_deterministic_algorithms(True)
    cv2.setNumThreads(1)
    rngs = np.random.default_rng(args.seed).spawn(4)
    scenes = list(render_scenes(rngs[0], args.sections, 600.0))
    photographs = _photographs(args, rngs[1])
    print(f"{len(scenes)} rendered sections, {len(photographs)} stained photographs", flush=True)
    net = FiberNet()
    how = {"batch": args.batch, "size": args.size, "half": args.bfloat16}
    if args.start:
        net.load_state_dict(torch.load(args.start))
    else:
        fit_network(net, scenes, [], rngs[2], args.steps, rate=4e-3, **how)
        args.out.parent.mkdir(parents=True, exist_ok=True)
        torch.save(net.state_dict(), args.out.with_suffix(".first.pt"))
    fit_network(net, scenes, photographs, rngs[3], args.steps_mixed, rate=2e-3, **how)
    torch.save(net.state_dict(), args.out.with_suffix(".pt"))
    export_network(net, args.out)
    if args.reference:
        write_reference(net, args.reference)
    print(hashlib.sha256(args.out.read_bytes()).hexdigest(), args.out)


def _photographs(args: argparse.Namespace, rng: np.random.Generator) -> list[Scene]:
    if args.real is None:
        return []
    names = sorted(path.name.removesuffix("_fibers.png") for path in args.real.glob("*_fibers.png"))
    names = [name for name in names if name not in args.without]
    tool = args.restain or args.real.parents[2] / "tools" / "restain.py"
    return list(restain_scenes(rng, args.real, tool, names, args.variants))


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m training", description=__doc__)
    parser.add_argument("--real", type=Path, help="folder of photographs: NAME.tif, NAME_fibers.png, ...")
    parser.add_argument("--restain", type=Path, help="the script that stains them anew")
    parser.add_argument("--without", nargs="*", default=[], help="photographs to leave out")
    parser.add_argument("--out", type=Path, default=Path("fibers_float32.onnx"))
    parser.add_argument("--reference", type=Path, help="file for an input and its maps, as tests compare")
    parser.add_argument("--start", type=Path, help="weights after the rendered tiles, to begin from")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sections", type=int, default=160, help="rendered sections")
    parser.add_argument("--variants", type=int, default=40, help="stainings of the photographs")
    parser.add_argument("--steps", type=int, default=1300, help="steps on rendered tiles")
    parser.add_argument("--steps-mixed", type=int, default=1500, help="steps on both")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--size", type=int, default=192, help="side of a tile, um; a multiple of 16")
    parser.add_argument("--bfloat16", action="store_true", help="quicker with AMX or AVX512-BF16")
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


if __name__ == "__main__":
    main()
