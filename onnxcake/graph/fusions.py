"""Define the rules of `fuse`: each matches one node and its inputs, and offers one torch call in their place."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .node import Node
from .patterns import Derived, Fused, Patterns, scalar
from .values import Depends, Value


def _last_axis_only(node: Node | None, value: Value) -> bool:
    """Tell whether a reduction is over the last axis alone and keeps it."""
    if node is None or not node.attr("keepdims", 1):
        return False
    axes = node.attr("axes")
    if axes is None and len(node.inputs) > 1 and node.inputs[1] is not None:
        axes = node.inputs[1].seen[0].reshape(-1).tolist() if node.inputs[1].depends == Depends.NOTHING else None
    return axes is not None and len(axes) == 1 and axes[0] in (-1, value.seen[0].dim() - 1)


_ERF = [("Add", ("Erf", ("Div", "x", math.sqrt(2))), 1.0), ("Add", ("Erf", ("Mul", "x", math.sqrt(0.5))), 1.0)]
_GELU = [
    p
    for e in _ERF
    for p in (("Mul", ("Mul", "x", e), 0.5), ("Mul", ("Mul", "x", 0.5), e), ("Mul", "x", ("Mul", e, 0.5)))
]
_CUBE = [("Pow", "x", 3.0), ("Mul", "x", ("Mul", "x", "x"))]
_TANH = [("Add", ("Tanh", ("Mul", ("Add", "x", ("Mul", c, 0.044715)), math.sqrt(2 / math.pi))), 1.0) for c in _CUBE]
_GELU_TANH = [
    p
    for t in _TANH
    for p in (("Mul", ("Mul", "x", t), 0.5), ("Mul", ("Mul", "x", 0.5), t), ("Mul", "x", ("Mul", t, 0.5)))
]


def activation(graph: Patterns, node: Node, value: Value) -> Fused | None:
    """Fuse GELU, SiLU and hard-swish, as older exports and opsets write them out."""
    if node.op not in ("Mul", "Div"):
        return None
    if (found := graph.first(value, *_GELU)) is not None:
        return Fused(F.gelu, (found["x"],))
    if (found := graph.first(value, *_GELU_TANH)) is not None:
        return Fused(lambda x: F.gelu(x, approximate="tanh"), (found["x"],))
    if (found := graph.first(value, ("Mul", "x", ("Sigmoid", "x")))) is not None:
        return Fused(F.silu, (found["x"],))
    clipped = ("Clip", ("Add", "x", 3.0), 0.0, 6.0)
    hard = graph.first(value, ("Div", ("Mul", "x", clipped), 6.0), ("Mul", "x", ("Div", clipped, 6.0)))
    if hard is not None:
        return Fused(F.hardswish, (hard["x"],))
    found = graph.first(value, ("Mul", "x", ("HardSigmoid", "x")))
    if found is not None:
        gate = next(n for v in node.inputs if (n := graph.maker(v)) is not None and n.op == "HardSigmoid")
        if math.isclose(gate.attr("alpha", 0.2), 1 / 6, rel_tol=1e-4) and gate.attr("beta", 0.5) == 0.5:
            return Fused(F.hardswish, (found["x"],))
    return None


_NEGATIVE = (("Neg", "x"), ("Mul", "x", -1.0))
_SUMS = [("Add", ("Exp", n), 1.0) for n in _NEGATIVE]
_SIGMOID = [p for s in _SUMS for p in (("Reciprocal", s), ("Div", 1.0, s))]


def sigmoid(graph: Patterns, node: Node, value: Value) -> Fused | None:
    """Fuse a sigmoid written as its formula, whose exponential, and so gradient, is not finite below −88."""
    found = graph.first(value, *_SIGMOID) if node.op in ("Reciprocal", "Div") else None
    return None if found is None else Fused(torch.sigmoid, (found["x"],))


_CENTRED = ("Sub", "x", ("ReduceMean", "x"))
_SQUARED = [("Pow", _CENTRED, 2.0), ("Mul", _CENTRED, _CENTRED)]
_NORMED = [("Div", _CENTRED, ("Sqrt", ("Add", ("ReduceMean", s), "epsilon"))) for s in _SQUARED]


def layer_norm(graph: Patterns, node: Node, value: Value) -> Fused | None:
    """Fuse layer normalisation over the last axis, as opsets before 17 write it out."""
    if node.op != "Add":
        return None
    found = graph.first(value, *(("Add", ("Mul", n, "scale"), "shift") for n in _NORMED))
    if found is None:
        return None
    x, scale, shift = found["x"], found["scale"], found["shift"]
    epsilon, size = scalar(found["epsilon"]), x.seen[0].shape[-1]
    vectors = all(v.depends == Depends.NOTHING and v.seen[0].shape == (size,) for v in (scale, shift))
    if epsilon is None or not vectors or not all(_last_axis_only(m, x) for m in _means(graph, value)):
        return None
    return Fused(lambda x, scale, shift: F.layer_norm(x, (size,), scale, shift, epsilon), (x, scale, shift))


def _means(graph: Patterns, value: Value, depth: int = 7) -> list[Node]:
    node = graph.maker(value) if depth else None
    if node is None:
        return []
    own = [node] if node.op == "ReduceMean" else []
    inside = node.inputs[:1] if own and depth < 4 else node.inputs
    return own + [mean for v in inside if v is not None for mean in _means(graph, v, depth - 1)]


def linear(graph: Patterns, node: Node, value: Value) -> Fused | None:
    """Fuse a matrix product with weights and a bias into one call."""
    if node.op != "Add":
        return None
    found = graph.first(value, ("Add", ("MatMul", "x", "weight"), "bias"))
    if found is None or not graph.once(node, "MatMul"):
        return None
    x, weight, bias = found["x"], found["weight"], found["bias"]
    constant = weight.depends == bias.depends == Depends.NOTHING and x.depends == Depends.DATA
    if (
        not constant
        or weight.seen[0].dim() != 2
        or x.seen[0].dim() < 2
        or bias.seen[0].shape != weight.seen[0].shape[1:]
    ):
        return None
    return Fused(F.linear, (x, Derived(_transpose, (weight,)), bias))


def _transpose(weight: Tensor) -> Tensor:
    return weight.t()


def attention(graph: Patterns, node: Node, value: Value) -> Fused | None:
    """Fuse softmax(q kᵀ · scale + mask) v into one call that does not keep the attention matrix."""
    if node.op != "MatMul":
        return None
    found = graph.first(value, ("MatMul", ("Softmax", "scores"), "v"))
    if found is None or not _softmax_over_last(graph, node) or not graph.once(node, "Softmax"):
        return None
    scores, v = found["scores"], found["v"]
    mask: Value | None = None
    product = graph.first(
        scores,
        ("Add", ("MatMul", "q", "k"), "mask"),
        ("Add", ("Mul", ("MatMul", "q", "k"), "s"), "mask"),
        ("Add", ("Div", ("MatMul", "q", "k"), "d"), "mask"),
        ("Mul", ("MatMul", "q", "k"), "s"),
        ("Div", ("MatMul", "q", "k"), "d"),
        ("MatMul", "q", "k"),
    )
    if product is None or any(product[n].seen[0].dim() != 4 for n in "qk") or v.seen[0].dim() != 4:
        return None
    mask = product.get("mask")
    if mask is not None and (mask.seen[0].dim() < 2 or mask.seen[0].dtype != v.seen[0].dtype):
        return None
    scale = 1.0
    for name in "sd":
        if name in product:
            number = scalar(product[name])
            if number is None or number == 0:
                return None
            scale *= number if name == "s" else 1 / number
    q, scale = _unscaled(graph, product["q"], scale)
    k, scale = _unscaled(graph, product["k"], scale)
    if not all(t.depends == Depends.DATA for t in (q, k, v)) or scale <= 0:
        return None
    if mask is None:
        return Fused(lambda q, k, v: F.scaled_dot_product_attention(q, k.transpose(-2, -1), v, scale=scale), (q, k, v))
    return Fused(
        lambda q, k, v, mask: F.scaled_dot_product_attention(q, k.transpose(-2, -1), v, attn_mask=mask, scale=scale),
        (q, k, v, mask),
    )


def _unscaled(graph: Patterns, value: Value, scale: float) -> tuple[Value, float]:
    """Return a value before its multiplication by a number, and that number times ``scale``."""
    node = graph.maker(value)
    if node is None or node.op not in ("Mul", "Div") or node.proto.domain:
        return value, scale
    for place in (1, 0) if node.op == "Mul" else (1,):
        number, other = scalar(node.inputs[place]), node.inputs[1 - place]
        if number and other is not None and other.seen[0].shape == value.seen[0].shape:
            return other, scale * number if node.op == "Mul" else scale / number
    return value, scale


def _softmax_over_last(graph: Patterns, node: Node) -> bool:
    softmax = graph.maker(node.inputs[0])
    if softmax is None:
        return False
    rank = softmax.rank(0)
    axis = softmax.attr("axis", -1 if softmax.version >= 13 else 1)
    return bool(axis in (-1, rank - 1))


def transposed(graph: Patterns, node: Node, value: Value) -> Fused | None:
    """Replace a transpose of matrices with all leading axes flattened into one by a view."""
    if node.op != "Reshape":
        return None
    found = graph.first(value, ("Reshape", ("Transpose", ("Reshape", "x", "there")), "back"))
    swap = graph.maker(node.inputs[0])
    if found is None or swap is None or tuple(swap.attr("perm", ())) != (0, 2, 1):
        return None
    for trial in (0, 1):
        (*lead, rows, columns), after = found["x"].seen[trial].shape, value.seen[trial].shape
        if swap.value(0).seen[trial].shape[1:] != (rows, columns) or after != (*lead, columns, rows):
            return None
    return Fused(lambda x: x.transpose(-2, -1), (found["x"],))


def batch_norm(graph: Patterns, node: Node, value: Value) -> Fused | None:
    """Fold a BatchNormalization into the convolution before it, where the value between is read nowhere else.

    Scale and shift go into the weights, which are far fewer than the activations, and these need not be read and kept
    once more.
    """
    conv = graph.maker(node.inputs[0])
    if node.op != "BatchNormalization" or node.attr("training_mode", 0) or conv is None or conv.op != "Conv":
        return None
    step = graph.call(node.value(0))
    stored = [conv.is_constant(i) for i in range(1, len(conv.inputs))] + [node.is_constant(i) for i in range(1, 5)]
    if step is None or conv.proto.domain or not all(stored) or graph.readers[node.value(0).slot] != 1:
        return None
    scale, shift, mean, var = (node.value(i) for i in range(1, 5))
    if scale.seen[0].shape != conv.sample(1).shape[:1]:
        return None
    given = scale, shift, mean, var
    epsilon = node.attr("epsilon", 1e-5)
    first = Derived(_ScaledWeight(epsilon), (conv.value(1), scale, var))
    second = Derived(_ScaledBias(epsilon), (*given, conv.value(2)) if conv.has(2) else given)
    return Fused(step.function, (conv.value(0), first, second))


@dataclass(frozen=True)
class _ScaledWeight:
    """Scale a convolution's weight [out, …] by what the BatchNormalization scales its outputs by."""

    epsilon: float

    def __call__(self, weight: Tensor, scale: Tensor, var: Tensor) -> Tensor:
        return torch.mul(weight, (scale * (var + self.epsilon).rsqrt()).reshape(-1, *[1] * (weight.dim() - 1)))


@dataclass(frozen=True)
class _ScaledBias:
    """Compute the bias of a convolution that a BatchNormalization was folded into."""

    epsilon: float

    def __call__(self, scale: Tensor, shift: Tensor, mean: Tensor, var: Tensor, given: Tensor | None = None) -> Tensor:
        centre = mean if given is None else mean - given
        return torch.addcmul(shift, centre * scale, (var + self.epsilon).rsqrt(), value=-1)


Rule = Callable[[Patterns, Node, Value], Fused | None]
RULES: tuple[Rule, ...] = (activation, sigmoid, layer_norm, attention, linear, transposed, batch_norm)
