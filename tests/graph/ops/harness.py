"""Try one operator: one row of a table gives a model, its answer by onnxruntime, its gradient.

A test file is a table and a line::

    from harness import Row, data, normal, forward_and_gradient

    ROWS = [
        Row("Conv", [data("N", 3, 8, 8), normal(4, 3, 3, 3)], {"strides": [2, 2]}),
        Row("Softmax", [data("N", 5)], {"axis": 1}, since=13, name="last axis"),
        Row("TopK", [data("N", 9), [3]], outputs=("values", "indices"), since=10),
        Row("NonZero", [data("N", 9)], gradient=False, refused="depends on the data"),
    ]

    test_forward, test_gradient = forward_and_gradient(ROWS)

Test files have no package around them: their names must be unique in all of tests/.
"""

from __future__ import annotations

import contextlib
import functools
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from onnxruntime.capi import onnxruntime_pybind11_state as refusals
from plain_session import plain_session
from torch import Tensor

from onnxcake.graph.build import Builder
from onnxcake.graph.module import Graph
from onnxcake.graph.values import Value

OLDEST = 7  # the oldest opset that is supported
COMPANION = 17  # ai.onnx's opset in a model whose operator is of another domain
BATCHES = (5, 2)  # none of the builder's trial batches
_NO_KERNEL = (refusals.NotImplemented, refusals.Fail, refusals.InvalidGraph)


@dataclass(frozen=True)
class Data:
    """An input that is data; see `data`."""

    shape: tuple[int | str, ...]
    dtype: np.dtype[Any]
    low: float
    high: float

    def at(self, batch: int) -> tuple[int, ...]:
        """Its shape for a batch."""
        return tuple(batch if size == "N" else int(size) for size in self.shape)

    def values(self, batch: int, seed: int) -> np.ndarray[Any, Any]:
        """Its numbers for a batch, always the same."""
        shape = self.at(batch)
        count = int(np.prod(shape))
        rng = np.random.default_rng(seed)
        if self.dtype.kind == "f":
            # Evenly spaced and shuffled: no two are equal, and none comes near a round number, where kinks are.
            spaced = (rng.permutation(count) + 0.3819660113) / max(count, 1)
            return (self.low + (self.high - self.low) * spaced).reshape(shape).astype(self.dtype)
        if self.dtype.kind == "b":
            return rng.integers(0, 2, shape).astype(bool)
        return rng.integers(int(self.low), int(self.high), shape).astype(self.dtype)


def data(*shape: int | str, dtype: str = "float32", low: float = -2, high: float = 2) -> Data:
    """An input that is data: "N" in its shape is the batch; floats lie in (low, high), integers in [low, high)."""
    kind = np.dtype(dtype)
    return Data(shape, kind, max(low, 0) if kind.kind == "u" else low, high)


def normal(*shape: int, seed: int = 0, dtype: str = "float32") -> np.ndarray[Any, Any]:
    """Standard normal numbers, always the same, for a constant input."""
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def positive(*shape: int, seed: int = 0, dtype: str = "float32") -> np.ndarray[Any, Any]:
    """Numbers between 0.5 and 1.5, always the same, for a constant input."""
    return np.random.default_rng(seed).uniform(0.5, 1.5, size=shape).astype(dtype)


@dataclass(frozen=True, eq=False)
class Row:
    """One node to try.

    Attributes:
        op, domain: its operator.
        inputs: of each input: `data`; an array, list or number, held constant; or None, absent. A list or number
            becomes int64 or float32.
        attrs: its attributes.
        since, until: the first and last opset it is valid at.
        opsets: the opsets to try; by default each version that the operator ever had (see `versions`).
        outputs: their names, "" where an output is not wanted.
        types: the outputs' ONNX element types, where onnx cannot infer them; float by default.
        gradient: whether it is differentiable in its floating-point data.
        refused: if given, the node is to be refused, with these words in the reason.
        reference: whether onnx's own evaluator is asked because onnxruntime, which has a kernel, errs or refuses.
        expected: what the outputs should be, computed in numpy from all given inputs, instead of onnxruntime.
        rtol, atol: how close the outputs have to be.
        name: for pytest, if the operator and attributes do not tell rows apart.
    """

    op: str
    inputs: Sequence[Any]
    attrs: Mapping[str, Any] = field(default_factory=dict)
    domain: str = ""
    since: int = 1
    until: int = 10_000
    opsets: Sequence[int] = ()
    outputs: Sequence[str] = ("y",)
    types: Sequence[int] = ()
    gradient: bool = True
    refused: str = ""
    reference: bool = False
    expected: Callable[..., Any] | None = None
    rtol: float = 1e-4
    atol: float = 1e-5
    name: str = ""

    def __str__(self) -> str:
        plain = {k: v for k, v in self.attrs.items() if isinstance(v, (int, float, str, list))}
        return f"{self.op}({self.name or ','.join(f'{k}={v}' for k, v in plain.items())})".replace(" ", "")


@functools.cache
def versions(op: str, domain: str = "") -> tuple[int, ...]:
    """An opset for each version of an operator, from the one in force at opset 7 to the newest.

    None for a version that deprecates it.

    (1,) for an operator that onnx does not define, such as com.microsoft's.
    """
    history = [s for s in onnx.defs.get_all_schemas_with_history() if (s.name, s.domain) == (op, domain)]
    if not history:
        return (1,)
    first = OLDEST if domain == "" else 1
    opsets = {max(schema.since_version, first) for schema in history}
    return tuple(sorted(opset for opset in opsets if not onnx.defs.get_schema(op, opset, domain).deprecated))


def cases(rows: Iterable[Row], gradient: bool = False) -> list[Any]:
    """(row, opset) for `pytest.mark.parametrize`: each row at each of its opsets.

    With ``gradient``, only the differentiable rows, each at its newest opset.
    """
    made: list[Any] = []
    for row in rows:
        opsets = [v for v in row.opsets or versions(row.op, row.domain) if row.since <= v <= row.until]
        assert opsets, f"{row} is valid at no opset"
        if gradient:
            opsets = opsets[-1:] if row.gradient and not row.refused else []
        made += [pytest.param(row, opset, id=f"{row}-{opset}") for opset in opsets]
    return made


def model(row: Row, opset: int) -> onnx.ModelProto:
    """The row as a checked model; its data inputs are x0, x1, …, named by their place among the inputs."""
    names, inputs, weights = [], [], []
    for place, given in enumerate(row.inputs):
        names.append("" if given is None else f"x{place}")
        if isinstance(given, Data):
            kind = helper.np_dtype_to_tensor_dtype(given.dtype)
            inputs.append(helper.make_tensor_value_info(names[-1], kind, given.shape))
        elif given is not None:
            weights.append(numpy_helper.from_array(_array(given), names[-1]))
    node = helper.make_node(row.op, names, list(row.outputs), name="node", domain=row.domain, **row.attrs)
    types = (*row.types, *[TensorProto.FLOAT] * len(row.outputs))
    outputs = [helper.make_tensor_value_info(n, t, None) for n, t in zip(row.outputs, types, strict=False) if n]
    opsets = [helper.make_opsetid(row.domain, opset)]
    if row.domain:
        opsets.append(helper.make_opsetid("", COMPANION))
    proto = helper.make_model(helper.make_graph([node], "row", inputs, outputs, weights), opset_imports=opsets)
    proto.ir_version = max(helper.find_min_ir_version_for(opsets, ignore_unknown=True), 4)
    if not row.types:
        _infer_outputs(proto)
    _check(proto)
    return proto


def _check(proto: onnx.ModelProto) -> None:
    """Check all but the outputs' shapes, which the checker wants and nobody need know.

    An operator deprecated at this version, which files still hold, is not checked.
    """
    (node,), (opset, *_) = proto.graph.node, proto.opset_import
    if (
        onnx.defs.has(node.op_type, node.domain)
        and onnx.defs.get_schema(node.op_type, opset.version, node.domain).deprecated
    ):
        return
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    for out in copy.graph.output:
        if out.type.HasField("tensor_type") and not out.type.tensor_type.HasField("shape"):
            out.type.tensor_type.shape.SetInParent()
    onnx.checker.check_model(copy)


def _infer_outputs(proto: onnx.ModelProto) -> None:
    """Correct the outputs' types, so far said to be float, to what onnx infers."""
    bare = onnx.ModelProto()
    bare.CopyFrom(proto)
    for out in bare.graph.output:
        out.ClearField("type")
    with contextlib.suppress(onnx.shape_inference.InferenceError):  # they stay float
        inferred = {out.name: out.type for out in onnx.shape_inference.infer_shapes(bare).graph.output}
        for out in proto.graph.output:
            if inferred[out.name].WhichOneof("value"):
                out.type.CopyFrom(inferred[out.name])


def values(row: Row, batch: int) -> dict[str, np.ndarray[Any, Any]]:
    """Its data for a batch, by input name."""
    seed = zlib.crc32(row.op.encode())
    return {f"x{i}": g.values(batch, seed + i) for i, g in enumerate(row.inputs) if isinstance(g, Data)}


def opened(
    proto: onnx.ModelProto,
    shapes: Mapping[str, Callable[[int], tuple[int, ...]]] | None = None,
    precision: torch.dtype | None = torch.float32,
    relaxed: bool = False,
    **said: Any,
) -> tuple[Graph, Builder]:
    """Build a model at the builder's own trial batches, as a module of its inputs.

    Args:
        proto: the model; sizes of its inputs that are no numbers are the batch.
        shapes: of inputs by name, their shapes for a batch, where that is not so.
        relaxed: integers are given as floats.
        said: `Builder`'s other arguments.
    """
    builder = Builder({(f.domain, f.name): f for f in proto.functions}, precision, **said)
    known: dict[str, Value] = {}
    for info in proto.graph.input:
        dims = info.type.tensor_type.shape.dim
        at = (shapes or {}).get(info.name) or (
            lambda n, dims=dims: tuple(d.dim_value if d.HasField("dim_value") else n for d in dims)
        )
        dtype = builder.dtype_of(info.type.tensor_type.elem_type)
        if relaxed and precision is not None and dtype != torch.bool:
            dtype = precision
        first, second = builder.batches
        known[info.name] = builder.input((at(first), at(second)), dtype)
    opsets = {"" if o.domain == "ai.onnx" else o.domain: o.version for o in proto.opset_import}
    outputs = builder.graph(proto.graph, opsets, dict(known))
    return builder.finish(list(known.values()), outputs), builder


def built(proto: onnx.ModelProto, *given: Any, **said: Any) -> Graph:
    """Build a model, as `opened` does, of which nothing may be refused."""
    graph, builder = opened(proto, *given, **said)
    assert not builder.blocked, "; ".join(f"{blocked.op}: {blocked.why}" for blocked in builder.blocked)
    return graph


def build(row: Row, opset: int, precision: torch.dtype | None = torch.float32) -> tuple[Graph, Builder]:
    """Build the row's model, whatever is refused."""
    return opened(model(row, opset), precision=precision)


def forward_matches_onnxruntime(row: Row, opset: int) -> None:
    """Assert that the built module gives at other batches what onnxruntime gives (or the row's expectation).

    Where onnxruntime has no kernel for the operator at this opset, onnx's own evaluator stands in.
    """
    graph, builder = build(row, opset)
    if row.refused:
        assert len(builder.blocked) == 1, f"{row} was not refused"
        assert row.refused in builder.blocked[0].why, builder.blocked[0].why
        return
    assert not builder.blocked, "; ".join(blocked.why for blocked in builder.blocked)
    answer = _answerer(row, opset)
    for batch in BATCHES:
        given = values(row, batch)
        got = graph.run(batch, *[torch.from_numpy(array) for array in given.values()])
        want = answer(given)
        assert len(got) == len(want)
        for ours, theirs in zip(got, want, strict=True):
            _assert_same(ours, theirs, row)


def gradient_matches_differences(row: Row, opset: int) -> None:
    """Assert that the gradient in the row's floating-point data is that of central differences, in float64."""
    check_gradient(built(model(row, opset), precision=torch.float64), BATCHES[-1], values(row, BATCHES[-1]))


def check_gradient(graph: Graph, batch: int, given: Mapping[str, np.ndarray[Any, Any]], most: int = 100) -> None:
    """Assert that a graph's gradient is that of central differences; of more than ``most`` numbers in a projection."""
    tensors = [torch.from_numpy(array) for array in given.values()]
    tensors = [t.double().requires_grad_() if t.is_floating_point() else t for t in tensors]

    def outputs(*given: Tensor) -> tuple[Tensor, ...]:
        flat = _tensors(graph.run(batch, *given))
        return tuple(t for t in flat if t.is_floating_point() and t.requires_grad)

    assert outputs(*tensors), "no output has a gradient"
    # Fast: a random projection of the Jacobian is compared, which costs two runs instead of two per number.
    assert torch.autograd.gradcheck(outputs, tensors, fast_mode=sum(t.numel() for t in tensors) > most)


def compiles(row: Row, opset: int) -> None:
    """Assert that torch.compile takes the built module in one piece, and that it gives the same."""
    graph, _ = build(row, opset)
    torch.compiler.reset()
    given = [torch.from_numpy(array) for array in values(row, BATCHES[0]).values()]
    plain = _tensors(graph(*given))
    compiled = _tensors(torch.compile(graph, fullgraph=True, backend="eager")(*given))
    for a, b in zip(plain, compiled, strict=True):
        torch.testing.assert_close(a, b, equal_nan=True)


def forward_and_gradient(rows: Iterable[Row], gradient: Iterable[Row] | None = None) -> tuple[Callable[..., None], ...]:
    """Make the two tests of a table: forward, and the gradient of ``gradient``, by default of the same rows."""
    rows = list(rows)

    @pytest.mark.parametrize(("row", "opset"), cases(rows))
    def test_forward(row: Row, opset: int) -> None:
        forward_matches_onnxruntime(row, opset)

    @pytest.mark.parametrize(("row", "opset"), cases(rows if gradient is None else gradient, gradient=True))
    def test_gradient(row: Row, opset: int) -> None:
        gradient_matches_differences(row, opset)

    return test_forward, test_gradient


def compile_test(rows: Iterable[Row], opset: int | None = None) -> Callable[..., None]:
    """Make the test that torch.compile takes these rows, each at ``opset``, by default at its newest."""
    chosen = [(row, opset or cases([row])[-1].values[1]) for row in rows]

    @pytest.mark.parametrize(("row", "opset"), chosen, ids=[f"{row}-{at}" for row, at in chosen])
    def test_compiles(row: Row, opset: int) -> None:
        compiles(row, opset)

    return test_compiles


def _answerer(row: Row, opset: int) -> Callable[[dict[str, Any]], list[Any]]:
    """Find what gives the right answer for given data."""
    if row.expected is not None:
        constants = {f"x{i}": _array(g) for i, g in enumerate(row.inputs) if g is not None and not isinstance(g, Data)}
        names = [f"x{i}" for i in range(len(row.inputs))]
        expected = row.expected

        def by_hand(given: dict[str, Any]) -> list[Any]:
            answer = expected(*[(constants | given).get(name) for name in names])
            return list(answer) if isinstance(answer, tuple) else [answer]

        return by_hand
    proto = model(row, opset)
    if row.reference:
        evaluator = ReferenceEvaluator(proto)
        return lambda given: list(evaluator.run(None, given))
    try:
        session = plain_session(proto.SerializeToString())
    except _NO_KERNEL:
        return _answerer(replace(row, reference=True), opset)
    return lambda given: list(session.run(None, given))


def _array(given: Any) -> np.ndarray[Any, Any]:
    array = np.asarray(given)
    if isinstance(given, (np.ndarray, np.generic)) or array.dtype.kind not in "if":
        return array
    return array.astype(np.int64 if array.size and array.dtype.kind == "i" else np.float32)


def _assert_same(ours: Any, theirs: Any, row: Row) -> None:
    if isinstance(theirs, (list, tuple)):
        assert len(ours) == len(theirs)
        for one, other in zip(ours, theirs, strict=True):
            _assert_same(one, other, row)
        return
    if theirs is None:
        assert ours is None
        return
    got, want = ours.detach().numpy(), np.asarray(theirs)
    assert got.shape == want.shape, f"shape {got.shape}, should be {want.shape}"
    assert got.dtype.kind == want.dtype.kind, f"{got.dtype}, should be {want.dtype}"
    if want.dtype.kind != "f":
        assert got.dtype == want.dtype, f"{got.dtype}, should be {want.dtype}"
    np.testing.assert_allclose(got, want.astype(got.dtype), rtol=row.rtol, atol=row.atol)


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    return [t for v in value for t in _tensors(v)] if isinstance(value, (list, tuple)) else []
