"""Whatever the layers and whatever is dropped: a valid model, with the teacher's weights, that pairs up as it did."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from cutting import check_cut, check_products, check_whole, teacher_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

SIDE = 4


@dataclass
class Network:
    """A network while it is made: the last value, [n, channels, SIDE, SIDE], and what makes it."""

    last: str = "x"
    channels: int = 3
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    weights: dict[str, Any] = field(default_factory=dict)

    def node(self, op: str, *inputs: str, outputs: int = 1, **attributes: Any) -> str:
        """Add a node; the name of its first output, the second's ends in b."""
        name = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [name, name + "b"][:outputs], **attributes))
        return name

    def weight(self, *shape: int) -> str:
        """Random floats, small enough that answers keep their size."""
        draw = np.random.default_rng(len(self.weights))
        fan = max(1.0, np.prod(shape[1:], dtype=float))
        return self.constant((draw.standard_normal(shape) / np.sqrt(fan)).astype(np.float32))

    def constant(self, array: Any) -> str:
        """A constant."""
        name = f"w{len(self.weights)}"
        self.weights[name] = np.asarray(array)
        return name

    def conv(self, value: str, given: int, made: int, kernel: int = 1, group: int = 1) -> str:
        """A convolution that keeps sizes."""
        half = kernel // 2
        weight = self.weight(made, given // group, kernel, kernel)
        return self.node("Conv", value, weight, self.weight(made), group=group, pads=[half] * 4)

    def model(self, head: bool, classes: int = 3) -> onnx.ModelProto:
        """With a head: flattened into Gemm, or pooled first."""
        flat = self.node("Flatten", self.last if head else self.node("GlobalAveragePool", self.last))
        size = self.channels * (SIDE * SIDE if head else 1)
        hidden = self.node("Relu", self.node("Gemm", flat, self.weight(7, size), self.weight(7), transB=1))
        last = self.node("Gemm", hidden, self.weight(7, classes))
        self.nodes[-1].output[0] = "y"
        assert last
        graph = helper.make_graph(
            self.nodes,
            "network",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, SIDE, SIDE])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", classes])],
            [numpy_helper.from_array(array, name) for name, array in self.weights.items()],
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def divisor(number: int, wanted: int) -> int:
    """The one of a number's divisors that comes next below what is wanted."""
    return max(d for d in range(1, number + 1) if number % d == 0 and d <= max(wanted, 1))


def convolved(net: Network, size: int, other: int) -> None:
    net.last = net.conv(net.last, net.channels, size, kernel=1 + 2 * (other % 2))
    net.channels = size


def depthwise(net: Network, size: int, other: int) -> None:
    times = 1 + other % 2
    net.last = net.conv(net.last, net.channels, net.channels * times, 3, group=net.channels)
    net.channels *= times


def grouped(net: Network, size: int, other: int) -> None:
    groups = divisor(net.channels, other)
    net.last = net.conv(net.last, net.channels, groups * (1 + size // 3), group=groups)
    net.channels = groups * (1 + size // 3)


def normalised(net: Network, size: int, other: int) -> None:
    scale, shift, mean = (net.weight(net.channels) for _ in range(3))
    variance = net.constant(np.random.default_rng(size).uniform(0.5, 2, net.channels).astype(np.float32))
    net.last = net.node("BatchNormalization", net.last, scale, shift, mean, variance)


def bent(net: Network, size: int, other: int) -> None:
    net.last = net.node(("Relu", "Sigmoid", "HardSwish")[other % 3], net.last)


def residual(net: Network, size: int, other: int) -> None:
    inner = net.node("Relu", net.conv(net.last, net.channels, size))
    net.last = net.node("Add", *(net.last, net.conv(inner, size, net.channels))[:: 1 - 2 * (other % 2)])


def joined(net: Network, size: int, other: int) -> None:
    more = net.node("Relu", net.conv(net.last, net.channels, size))
    net.last = net.node("Concat", *(net.last, more)[:: 1 - 2 * (other % 2)], axis=1)
    net.channels += size


def parted(net: Network, size: int, other: int) -> None:
    if net.channels < 2:
        return
    first = 1 + other % (net.channels - 1)
    lengths = net.constant(np.int64([first, net.channels - first]))
    left = net.node("Split", net.last, lengths, axis=1, outputs=2)
    net.last = net.node("Concat", net.conv(left, first, size), left + "b", axis=1)
    net.channels += size - first


def shuffled(net: Network, size: int, other: int) -> None:
    groups = divisor(net.channels, other)
    split = net.constant(np.int64([-1, groups, net.channels // groups, SIDE, SIDE]))
    join = net.constant(np.int64([-1, net.channels, SIDE, SIDE]))
    turned = net.node("Transpose", net.node("Reshape", net.last, split), perm=[0, 2, 1, 3, 4])
    net.last = net.node("Reshape", turned, join)


def squeezed(net: Network, size: int, other: int) -> None:
    few = net.node("Relu", net.conv(net.node("GlobalAveragePool", net.last), net.channels, size))
    net.last = net.node("Mul", net.last, net.node("Sigmoid", net.conv(few, size, net.channels)))


def sliced(net: Network, size: int, other: int) -> None:
    start = other % net.channels
    bounds = (net.constant(np.int64([value])) for value in (start, start + size, 1))
    net.last = net.node("Slice", net.last, *bounds)
    net.channels = min(size, net.channels - start)


def padded(net: Network, size: int, other: int) -> None:
    pads = net.constant(np.int64([0, other % 3, 0, 0, 0, size % 3, 0, 0]))
    net.last = net.node("Pad", net.last, pads)
    net.channels += other % 3 + size % 3


LAYERS: tuple[Callable[[Network, int, int], None], ...] = (
    convolved, depthwise, grouped, normalised, bent, residual, joined, parted, shuffled, squeezed, sliced, padded,
)  # fmt: skip

layers = st.lists(st.tuples(st.sampled_from(LAYERS), st.integers(1, 12), st.integers(0, 12)), min_size=3, max_size=12)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(layers=layers, head=st.booleans(), share=st.floats(0.05, 1.0), seed=st.integers(0, 99))
def test_any_network_cut_anyhow(layers: list[Any], head: bool, share: float, seed: int) -> None:
    net = Network()
    for layer, size, other in layers:
        if net.channels <= 32:
            layer(net, size, other)
    with tempfile.TemporaryDirectory() as folder:
        teacher = teacher_of(net.model(head), Path(folder))
        check_whole(teacher)
        families = teacher.by_family(share, seed)
        check_cut(teacher, families, within=1e-4)
        check_cut(teacher, teacher.by_chance(share, seed), within=1e-4)
        check_products(teacher, share)
    whole = np.int64([])
    assert teacher.families.parameters(whole) == teacher.families.count
    assert teacher.families.parameters(np.int64(families)) <= teacher.families.count
