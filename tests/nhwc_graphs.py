"""Random channels-last classifiers, as other converters than torch's write them: Transposes around each convolution.

onnxruntime's transpose optimiser pushes those through what lies between, and rewrites constants on the way; most
constants here are larger than the kilobyte from which onnxcake keeps them beside the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

CLASSES = 5
_FIRST, _LAST = [0, 3, 1, 2], [0, 2, 3, 1]
_PLAIN = ("Relu", "Sigmoid", "HardSwish", "LeakyRelu", "Elu", "Abs")


class _Writer:
    def __init__(self, seed: int) -> None:
        self.draw = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.value, self.padded = "x", False
        size, channels = int(self.draw.integers(6, 19)), int(self.draw.choice([1, 3, 4, 8]))
        self.shape = [size, size + int(self.draw.integers(0, 3)), channels]  # without the batch
        self.entry = list(self.shape)

    def weight(self, *shape: int, spread: float = 1.0) -> str:
        name = f"w{len(self.weights)}"
        array = (self.draw.standard_normal(shape) * spread).astype(np.float32)
        self.weights.append(numpy_helper.from_array(array, name))
        return name

    def whole(self, *numbers: int) -> str:
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.array(numbers, np.int64), name))
        return name

    def add(self, op: str, *inputs: str, **attributes: Any) -> str:
        name = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [name], **attributes))
        return name

    def first(self, x: str) -> str:
        return self.add("Transpose", x, perm=_FIRST)

    def last(self, x: str) -> str:
        return self.add("Transpose", x, perm=_LAST)

    # One step each: from self.value of self.shape to the next

    def convolution(self) -> None:
        channels, kernel = self.shape[2], int(self.draw.choice([1, 3]))
        alone = channels > 1 and self.draw.random() < 0.3
        out = channels if alone else int(self.draw.choice([8, 12, 16, 64, 256]))
        inner = 1 if alone else channels
        w = self.weight(out, inner, kernel, kernel, spread=1 / np.sqrt(inner * kernel * kernel))
        bias = [self.weight(out)] if self.draw.random() < 0.5 else []
        pads = [kernel // 2] * 4
        x = self.add("Conv", self.first(self.value), w, *bias, pads=pads, group=channels if alone else 1)
        if self.draw.random() < 0.3:
            statistics = [self.weight(out) for _ in range(3)]
            x = self.add("BatchNormalization", x, *statistics, self.add("Abs", self.weight(out)))
        self.value, self.shape[2] = self.last(x), out

    def arithmetic(self) -> None:
        height, width, channels = self.shape
        shapes: list[Sequence[int]] = [
            (channels,),
            (1, 1, 1, channels),
            (1, height, width, channels),
            (height, width, 1),
            (width, channels),
            (1,),
        ]
        op, shape = str(self.draw.choice(["Add", "Sub", "Mul"])), shapes[self.draw.integers(len(shapes))]
        pair = [self.value, self.weight(*shape)]
        self.value = self.add(op, *(pair if self.draw.random() < 0.7 else pair[::-1]))

    def activation(self) -> None:
        if self.draw.random() < 0.2:
            self.value = self.add("PRelu", self.value, self.weight(1, 1, self.shape[2], spread=0.2))
        else:
            self.value = self.add(str(self.draw.choice(_PLAIN)), self.value)

    def pooling(self) -> None:
        if min(self.shape[:2]) < 4:
            return
        op = str(self.draw.choice(["MaxPool", "AveragePool"]))
        self.value = self.last(self.add(op, self.first(self.value), kernel_shape=[2, 2], strides=[2, 2]))
        self.shape[:2] = [size // 2 for size in self.shape[:2]]

    def residual(self) -> None:
        before, shape = self.value, list(self.shape)
        self.arithmetic()
        self.activation()
        if self.draw.random() < 0.5:
            self.value = self.add("Add", self.value, before)
        else:
            self.value = self.add("Concat", self.value, before, axis=-1)
            self.shape = [*shape[:2], 2 * shape[2]]

    def padding(self) -> None:
        if self.padded:  # onnxruntime refuses paddings that it has moved into a pooling and that exceed its kernel
            return
        self.padded = True
        self.value = self.add("Pad", self.value, self.whole(0, 1, 0, 0, 0, 0, 1, 0))
        self.shape[:2] = [self.shape[0] + 1, self.shape[1] + 1]

    def slicing(self) -> None:
        if min(self.shape) < 4:
            return
        self.value = self.add("Slice", self.value, self.whole(1, 1), self.whole(1000, 1000), self.whole(1, 3))
        self.shape = [self.shape[0] - 1, self.shape[1], self.shape[2] - 1]

    def gate(self) -> None:
        mean = self.add("ReduceMean", self.value, axes=[1, 2], keepdims=1)
        channels = self.shape[2]
        w = self.weight(channels, channels, spread=1 / np.sqrt(channels))
        self.value = self.add("Mul", self.value, self.add("Sigmoid", self.add("MatMul", mean, w)))


def random_nhwc(seed: int) -> onnx.ModelProto:
    """Write a classifier of [N, height, width, channels], always the same for a seed."""
    writer = _Writer(seed)
    steps = ("arithmetic", "arithmetic", "activation", "pooling", "residual", "padding", "slicing", "gate")
    for _ in range(int(writer.draw.integers(1, 4))):
        writer.convolution()
        for step in writer.draw.choice(steps, int(writer.draw.integers(1, 5))):
            getattr(writer, step)()
    height, width, channels = writer.shape
    if writer.draw.random() < 0.5:
        x, size = writer.add("ReduceMean", writer.value, axes=[1, 2], keepdims=0), channels
    else:
        size = height * width * channels
        x = writer.add("Reshape", writer.value, writer.whole(0, size))
    writer.add("MatMul", x, writer.weight(size, CLASSES, spread=1 / np.sqrt(size)))
    writer.nodes[-1].output[0] = "y"
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", *writer.entry])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", CLASSES])]
    graph = helper.make_graph(writer.nodes, "nhwc", inputs, outputs, writer.weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
