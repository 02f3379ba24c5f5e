"""Each operator's rule: what is left when indices are dropped is valid, the teacher's own, and pairs up as it did."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cut_modules import MODULES, Exported
from cut_row import IMAGE, TOKENS, Row, ints
from cut_rows import ROWS
from cutting import Teacher, answers, check_cut, check_whole, close, inputs_of, model_of, teacher_of

from onnxcake.pruning.cut import cut

SHARES = (0.25, 0.5, 0.75)


def within(row: Row) -> float:
    """Say how near to one another answers must be, relative to the largest."""
    return 1e-2 if row.name == "float16" else 1e-5


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_an_operators_rule(row: Row, tmp_path: Path) -> None:
    teacher = teacher_of(row.model(), tmp_path)
    assert teacher.free() == row.free
    check_whole(teacher, within(row), row.known)
    for seed, share in enumerate(SHARES):
        for dropped in (teacher.by_family(share, seed), teacher.by_chance(share, seed)):
            assert dropped or not row.free or share > 0.5
            check_cut(teacher, dropped, row.masked, within(row), row.known)


def exported(case: Exported, path: Path) -> Path:
    """The file that torch's exporter writes."""
    torch.manual_seed(0)
    module = case.make().eval()
    batch: Any = torch.export.Dim("batch", min=1, max=64)
    said: dict[str, Any] = (
        {"dynamic_shapes": ({0: batch},)} if case.dynamo else {"dynamic_axes": {"x": {0: "batch"}, "y": {0: "batch"}}}
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module, (torch.randn(3, *case.shape),), str(path), input_names=["x"], output_names=["y"],
            opset_version=case.opset, dynamo=case.dynamo, **said, **({"verbose": False} if case.dynamo else {}),
        )  # fmt: skip
    return path


@pytest.mark.parametrize("case", [pytest.param(c, marks=[pytest.mark.slow] * c.slow) for c in MODULES], ids=str)
def test_what_torch_exports(case: Exported, tmp_path: Path) -> None:
    teacher = teacher_of(exported(case, tmp_path / "teacher.onnx"), tmp_path)
    check_whole(teacher)
    found = teacher.families
    for seed, share in enumerate(SHARES):
        for dropped in (teacher.by_family(share, seed), teacher.by_chance(share, seed)):
            check_cut(teacher, dropped, case.masked, within=1e-4)
    half = found.parameters(np.array(teacher.by_family(0.5), np.int64)) / found.count
    assert half < case.half


def atoms_of(teacher: Teacher, name: str, axis: int, places: list[int]) -> list[int]:
    """The atoms of some indices of a weight, that are of no other index there."""
    indices, graph = teacher.followed.indices, teacher.followed.graph
    safe = next(safe for safe, own in graph.names.items() if own == name)
    elements = [indices.atoms(int(element)) for element in teacher.followed.axes[safe][axis]]
    others = frozenset[int]().union(*(e for place, e in enumerate(elements) if place not in places))
    return sorted(frozenset[int]().union(*(elements[place] for place in places)) - others)


def twice(array: np.ndarray[Any, Any], axis: int) -> np.ndarray[Any, Any]:
    """Each index two times."""
    return np.repeat(array, 2, axis)


NORMALISED = {
    "LayerNormalization": (
        TOKENS + " { a = MatMul(x, w1) b = LayerNormalization(a, s, t) c = MatMul(b, w2)"
        " y = ReduceSum<keepdims=0>(c, one) }",
        17, (6, 4), (4,), (8, 3), {"one": ints(1)},
    ),
    "LayerNormalization spelt out": (
        TOKENS
        + """ { a = MatMul(x, w1) m = ReduceMean<axes=[-1]>(a) d = Sub(a, m) q = Mul(d, d) v = ReduceMean<axes=[-1]>(q)
        p = Add(v, eps) r = Sqrt(p) n = Div(d, r) g1 = Mul(n, s) b = Add(g1, t) c = MatMul(b, w2)
        y = ReduceSum<keepdims=0>(c, one) }""",
        17, (6, 4), (4,), (8, 3), {"one": ints(1), "eps": np.float32(1e-5)},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", NORMALISED)
def test_a_normalisation_over_what_is_cut(name: str, tmp_path: Path) -> None:
    """Where every channel is there twice and one of the two is read by nobody, a mean cannot tell that it is gone."""
    text, opset, first, shift, last, more = NORMALISED[name]
    draw = np.random.default_rng(5)
    weights = {key: draw.standard_normal(shape).astype("f") for key, shape in (("s", shift), ("t", shift))}
    last_weight = draw.standard_normal(last).astype("f")
    last_weight[1::2] = 0
    model = model_of(
        text,
        opset,
        w1=twice(draw.standard_normal(first).astype("f"), 1),
        w2=last_weight,
        **{key: twice(value, 0) for key, value in weights.items()},
        **more,
    )
    teacher = teacher_of(model, tmp_path)
    dropped = atoms_of(teacher, "w1", 1, [1, 3, 5, 7])
    assert len(dropped) == 4
    same_as_whole(teacher, dropped)


GROUPED = {
    "GroupNormalization": (" z = GroupNormalization<num_groups=3>(a, s, t)", 21, {}),
    "as torch exports it": (
        """ g0 = Reshape(a, groups) g1 = InstanceNormalization(g0, ones, zeros) h = Shape(a) b = Reshape(g1, h)
        c = Mul(b, s) z = Add(c, t)""",
        17, {"groups": ints(0, 3, -1), "ones": np.ones(3, "f"), "zeros": np.zeros(3, "f")},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", GROUPED)
def test_groups_of_channels(name: str, tmp_path: Path) -> None:
    """Groups know nothing of one another; and in each, one of two like channels is not missed."""
    spelt, opset, more = GROUPED[name]
    draw = np.random.default_rng(5)
    shape = (12,) if opset == 21 else (12, 1, 1)
    last = draw.standard_normal((12 * 36, 3)).astype("f").reshape(12, 36, 3)
    last[1::2] = 0
    weights = {
        "w1": twice(draw.standard_normal((6, 3, 1, 1)).astype("f"), 0),
        **{key: twice(draw.standard_normal(6).astype("f"), 0).reshape(shape) for key in ("s", "t")},
        "w9": last.reshape(-1, 3),
    }
    text = IMAGE + " { a = Conv(x, w1)" + spelt + " f = Flatten(z) y = Gemm(f, w9) }"
    teacher = teacher_of(model_of(text, opset, **weights, **more), tmp_path)
    same_as_whole(teacher, atoms_of(teacher, "w1", 0, list(range(1, 12, 2))))
    group = atoms_of(teacher, "w1", 0, [4, 5, 6, 7])
    assert len(group) == 1
    check_cut(teacher, group)


def same_as_whole(teacher: Teacher, dropped: list[int]) -> None:
    """The cut model answers as the whole one does."""
    assert dropped
    model = check_cut(teacher, dropped, masked=False)
    x = inputs_of(teacher, 3)
    close(answers(model, x), answers(cut(teacher.followed, [], "x", "y"), x))


def test_a_quantised_teacher(tmp_path: Path) -> None:
    """Its weights are cut as the floats that they stand for; what rounds its activations stays."""
    draw = np.random.default_rng(2)

    def whole(*shape: int) -> Any:
        return draw.integers(-100, 100, shape).astype(np.int8)

    def scale(*shape: int) -> Any:
        return draw.uniform(0.01, 0.02, shape).astype(np.float32)

    text = (
        IMAGE
        + """ { x1 = QuantizeLinear(x, sx, zx) x2 = DequantizeLinear(x1, sx, zx)
        w1 = DequantizeLinear<axis=0>(i1, s1, z1)
        b1 = DequantizeLinear<axis=0>(ib, sb) a = Conv(x2, w1, b1) r = Relu(a) r1 = QuantizeLinear(r, sx, zx)
        r2 = DequantizeLinear(r1, sx, zx) w2 = DequantizeLinear<axis=0>(i2, s2, z2) z = Conv(r2, w2)
        e = GlobalAveragePool(z) f = Flatten(e) y = Gemm(f, w9) }"""
    )
    weights = {
        "sx": scale(), "zx": np.int8(3), "i1": whole(8, 3, 1, 1), "s1": scale(8), "z1": np.zeros(8, np.int8),
        "ib": draw.integers(-100, 100, 8).astype(np.int32), "sb": scale(8), "i2": whole(6, 8, 1, 1),
        "s2": scale(6), "z2": np.zeros(6, np.int8), "w9": (6, 4),
    }  # fmt: skip
    teacher = teacher_of(model_of(text, **weights), tmp_path)
    assert teacher.free() == {"w1": (0,), "b1": (0,), "w2": (0, 1), "w9": (0,)}
    check_whole(teacher, within=1e-2)  # onnxruntime quantises weights beside quantised activations once more
    for share in SHARES:
        model = check_cut(teacher, teacher.by_family(share), within=1e-2)
        assert [n.op_type for n in model.graph.node].count("QuantizeLinear") == 2


def test_gathered_rows_of_the_batch_stay(tmp_path: Path) -> None:
    """One token of each row, chosen by the row's own number: whole numbers as many as the batch."""
    model = model_of(
        TOKENS
        + """ { a = MatMul(x, w1) s = Shape(x) n = Gather(s, i0) r = Range(i0, n, i1) u = Unsqueeze(r, last)
        m = ReduceMax<axes=[2], keepdims=0>(x) k = ArgMax<axis=1>(m) p = Concat<axis=1>(u, k) b = GatherND(a, p)
        c = Gemm(b, w2) d = Relu(c) y = Gemm(d, w3) }""",
        w1=(6, 8), w2=(8, 10), w3=(10, 4), i0=np.array(0), i1=np.array(1), last=ints(1),
    )  # fmt: skip
    teacher = teacher_of(model, tmp_path)
    assert teacher.free() == {"w2": (1,), "w3": (0,)}
    check_whole(teacher)
    check_cut(teacher, teacher.by_family(0.5))


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_states_and_lengths_that_are_stored_for_one_batch(kind: str, batch: int, tmp_path: Path) -> None:
    """An exporter that traces with a fixed batch writes first states of that batch; the cut model's batch is free."""
    gates, random = {"LSTM": 4, "GRU": 3}[kind], np.random.default_rng(0)
    first = {name: np.repeat(random.normal(size=(1, 1, 8)).astype(np.float32), batch, 1) for name in ("h", "c")}
    read = "lens, h, c" if kind == "LSTM" else "lens, h"
    text = f"""g (float[{batch},5,6] x) => (float[{batch},M] y) {{ t = Transpose<perm=[1,0,2]>(x)
        a, b = {kind}<hidden_size=8>(t, w, r, b1, {read}) s = Squeeze(b, i0) y = Gemm(s, w9) }}"""
    weights = {
        "w": (1, gates * 8, 6), "r": (1, gates * 8, 8), "b1": (1, gates * 16), "w9": (8, 4), "i0": ints(0),
        "lens": np.full(batch, 4, np.int32), "h": first["h"], **({"c": first["c"]} if kind == "LSTM" else {}),
    }  # fmt: skip
    teacher = teacher_of(model_of(text, **weights), tmp_path)
    check_whole(teacher)
    for share in SHARES:
        check_cut(teacher, teacher.by_family(share), masked=False)
