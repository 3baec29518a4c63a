"""One command: a network in 8 bits laid out for speed, its maps the same to the bit.

Channels lie last from the first layer to the last. Layers of few channels make two neighbouring pixels
at once, which fills the processor's registers. A level is doubled without a pass of its own: columns by
weights given twice to the layer before, rows by copying. Maps that nothing uses are left out.
"""

from __future__ import annotations

import argparse
import hashlib
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from onnx import NodeProto, TensorProto, helper, numpy_helper

from histoquant.network import CHANNELS, OUTPUTS, STEPS, Steps
from training.quantize import INPUT, OUTPUT
from training.tiles import value_bytes

Array = npt.NDArray[Any]
OURS = "com.microsoft"
"""Operators of onnxruntime with channels last, which ONNX does not have."""
_FEW = 16
_WEIGHTS, _PER_CHANNEL = 3, (3, 4, 5, 8)


class _Layout:
    """Nodes with channels last, and the constants they need, made from those of a fused graph one by one."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.nodes: list[NodeProto] = []
        self.steps = STEPS
        self.constants = {one.name: numpy_helper.to_array(one) for one in graph.initializer}
        self._doubled = {node.input[0] for node in graph.node if node.op_type == "Resize"}
        ways: dict[str, Callable[[NodeProto], Any]] = {
            "QuantizeLinear": self._begin,
            "QLinearConv": self._convolve,
            "Resize": self._double,
            "QLinearConcat": self._join,
            "DequantizeLinear": self._take,
            "Conv": self._end,
        }
        for node in graph.node:
            ways[node.op_type](node)

    def _add(self, operator: str, inputs: list[str], output: str, **attributes: Any) -> None:
        domain = OURS if operator.startswith("QLinear") else None
        self.nodes.append(helper.make_node(operator, inputs, [output], output, domain=domain, **attributes))

    def _reshape(self, name: str, output: str, shape: list[int]) -> None:
        self._add("Reshape", [name, self._keep(output + "_shape", np.array(shape))], output)

    def _keep(self, name: str, values: Array) -> str:
        self.constants[name] = values
        return name

    def _begin(self, node: NodeProto) -> None:
        unit, zero = (self.constants[name] for name in node.input[1:])
        self.steps = Steps(float(unit), int(zero))
        self._add("Transpose", [INPUT], node.output[0], perm=[0, 2, 3, 1])

    def _convolve(self, node: NodeProto) -> None:
        how = {one.name: helper.get_attribute_value(one) for one in node.attribute} | {"channels_last": 1}
        weights, output = self.constants[node.input[_WEIGHTS]], node.output[0]
        plain = weights.shape[2:] == (3, 3) and [*how["strides"], *how["dilations"]] == [1, 1, 1, 1]
        if output in self._doubled:
            inputs = self._give_twice(node, [weights, weights])
            self._add("QLinearConv", inputs, output, **how)
        elif len(weights) <= _FEW and plain:
            # The left pixel of a pair sees three of four columns, the right one the other three.
            sides = [np.pad(weights, [(0, 0)] * 3 + [side]) for side in ((0, 1), (1, 0))]
            inputs = self._give_twice(node, sides)
            pairs = output + "_pairs"
            self._add("QLinearConv", inputs, pairs, **how | {"kernel_shape": [3, 4], "strides": [1, 2]})
            self._reshape(pairs, output, [0, 0, -1, len(weights)])
        else:
            self._add("QLinearConv", list(node.input), output, **how)

    def _give_twice(self, node: NodeProto, weights: list[Array]) -> list[str]:
        """Inputs of a layer with every channel twice, by one set of weights and by the other."""
        inputs = list(node.input)
        for at in _PER_CHANNEL:
            values = self.constants[inputs[at]]
            twice = np.concatenate(weights if at == _WEIGHTS else [values, values])
            inputs[at] = self._keep(inputs[at] + "_twice", twice)
        return inputs

    def _double(self, node: NodeProto) -> None:
        """Every row twice; a pixel's channels, which are there twice, are those of two pixels already."""
        name, output = node.input[0], node.output[0]
        channels = len(self._find_weights(name)) // 2
        self._reshape(name, output + "_wide", [0, 0, -1, channels])
        self._reshape(output + "_wide", output + "_rows", [-1, 1, 0, channels])
        self._add("Concat", [output + "_rows"] * 2, output + "_twice", axis=1)
        self._reshape(output + "_twice", output, [1, -1, 0, channels])

    def _find_weights(self, output: str) -> Array:
        (node,) = (node for node in self.nodes if output in node.output)
        return self.constants[node.input[_WEIGHTS]]

    def _join(self, node: NodeProto) -> None:
        self._add("QLinearConcat", list(node.input), node.output[0], axis=3)

    def _take(self, node: NodeProto) -> None:
        self._add("DequantizeLinear", list(node.input), node.output[0])

    def _end(self, node: NodeProto) -> None:
        weights, bias = (self.constants[name][:OUTPUTS] for name in node.input[1:])
        by_map = self._keep("maps_weights", np.ascontiguousarray(weights[:, :, 0, 0].T))
        self._add("MatMul", [node.input[0], by_map], "maps_last")
        self._add("Transpose", ["maps_last"], "maps_plain", perm=[0, 3, 1, 2])
        self._add("Add", ["maps_plain", self._keep("maps_bias", bias[:, None, None])], OUTPUT)

    def make_model(self) -> onnx.ModelProto:
        """Make the model, with the constants that are used."""
        used = {name for node in self.nodes for name in node.input}
        free = [1, CHANNELS, "rows", "columns"], [1, OUTPUTS, "rows", "columns"]
        kinds = TensorProto.UINT8, TensorProto.FLOAT
        first, last = map(helper.make_tensor_value_info, (INPUT, OUTPUT), kinds, free)
        kept = [numpy_helper.from_array(v, name) for name, v in self.constants.items() if name in used]
        graph = helper.make_graph(self.nodes, "fibers", [first], [last], kept)
        sets = [helper.make_opsetid("", 17), helper.make_opsetid(OURS, 1)]
        model = helper.make_model(graph, opset_imports=sets, ir_version=8)
        helper.set_model_props(model, {name: repr(value) for name, value in self.steps._asdict().items()})
        return model


def arrange_network(path: Path) -> onnx.ModelProto:
    """Lay a network out anew.

    Parameters
    ----------
    path : Path
        As `training.quantize` writes it.

    Returns
    -------
    ModelProto
        For onnxruntime alone.

    Raises
    ------
    SystemExit
        Its maps are not those of the file, to the bit, on an image of noise.
    """
    with tempfile.TemporaryDirectory() as folder:
        fused = Path(folder) / "fused.onnx"
        options = onnxruntime.SessionOptions()
        options.optimized_model_filepath = str(fused)
        # At the next level layouts are those of the processor at hand.
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        onnxruntime.InferenceSession(path, options)
        layout = _Layout(onnx.load(fused).graph)
    model = layout.make_model()
    image = np.random.default_rng(0).integers(0, 256, (1, CHANNELS, 96, 160), np.uint8)
    before = _run(path.read_bytes(), value_bytes(image, layout.steps))
    after = _run(model.SerializeToString(), image)
    if not np.array_equal(before[:, :OUTPUTS], after):
        raise SystemExit(f"{path}: the maps changed; nothing is written")
    return model


def _run(data: bytes, image: Array) -> Array:
    (maps,) = onnxruntime.InferenceSession(data).run(None, {INPUT: image})
    return np.asarray(maps)


def main() -> None:
    """Lay out a quantized network."""
    parser = argparse.ArgumentParser(prog="python -m training.arrange", description=__doc__)
    parser.add_argument("--model", type=Path, default=Path("fibers_int8.onnx"), help="as quantized")
    parser.add_argument("--out", type=Path, default=Path("histoquant/models/fibers.onnx"))
    args = parser.parse_args()
    args.out.write_bytes(arrange_network(args.model).SerializeToString())
    print(hashlib.sha256(args.out.read_bytes()).hexdigest(), args.out)


if __name__ == "__main__":
    main()
