"""LSTM, GRU and RNN, fused and step by step."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from harness import (
    Data,
    Row,
    build,
    cases,
    compile_test,
    data,
    forward_matches_onnxruntime,
    gradient_matches_differences,
    model,
    normal,
    values,
)
from plain_session import plain_session

STEPS, INPUTS, HIDDEN = 5, 3, 4
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
LONG = {"LSTM": 3, "GRU": 2, "RNN": 2}  # outputs


def row(
    kind: str,
    direction: str = "forward",
    name: str = "",
    bias: bool = True,
    lengths: Any = None,
    states: bool = False,
    peepholes: bool = False,
    constant: bool = True,
    outputs: tuple[str, ...] = (),
    **attrs: Any,
) -> Row:
    """A layer; its name for pytest says the direction and what else is ``name``d."""
    directions, gates = 1 + (direction == "bidirectional"), GATES[kind] * HIDDEN
    weights: list[Any] = [normal(directions, gates, INPUTS), normal(directions, gates, HIDDEN, seed=1)]
    if not constant:
        weights = [data(*w.shape, low=-1, high=1) for w in weights]
    state = data(directions, "N", HIDDEN, low=-1, high=1) if states else None
    inputs = [
        data(STEPS, "N", INPUTS),
        *weights,
        normal(directions, 2 * gates, seed=2) if bias else None,
        lengths,
        state,
    ]
    if kind == "LSTM":
        inputs += [state, normal(directions, 3 * HIDDEN, seed=3) if peepholes else None]
    given = {"hidden_size": HIDDEN, "direction": direction, **attrs}
    names = outputs or ("y", "h", "c")[: LONG[kind]]
    return Row(kind, inputs, given, outputs=names, name=f"{direction},{name}")


LENGTHS = data("N", dtype="int32", low=0, high=STEPS + 1)
ROWS = []
for kind in GATES:
    late = {"linear_before_reset": 1} if kind == "GRU" else {}
    for direction in ("forward", "reverse", "bidirectional"):
        ROWS += [
            row(kind, direction, "fused", **late),
            row(kind, direction, "from states", states=True, **late),
            row(kind, direction, "lengths", lengths=LENGTHS, states=True, **late),
            row(kind, direction, "clip", clip=0.3, **late),
        ]
    ROWS += [
        row(kind, "bidirectional", "all as long", lengths=np.full(1, STEPS, np.int32), **late),
        row(kind, "bidirectional", "no bias", bias=False, **late),
        row(kind, "bidirectional", "free weights", constant=False, **late),
        row(kind, "reverse", "last only", outputs=("", "h"), clip=9.0, **late),
        row(kind, "reverse", "all only", outputs=("y",), **late),
        row(kind, "forward", "no bias, in steps", bias=False, clip=9.0, **late),
    ]
ROWS += [
    row("GRU", name="reset before", linear_before_reset=0),
    row("GRU", "bidirectional", "reset before, lengths", lengths=LENGTHS, states=True),
    row("GRU", name="reset before, no bias", bias=False),
    row("LSTM", "bidirectional", "peepholes", peepholes=True, states=True),
    row("LSTM", name="peepholes, lengths, clip", peepholes=True, lengths=LENGTHS, states=True, clip=0.4),
    row("LSTM", name="coupled", input_forget=1),
    row("LSTM", name="relus", activations=["Relu", "Sigmoid", "Tanh"]),
    row("LSTM", name="three", activations=["HardSigmoid", "Elu", "LeakyRelu"]),
    row(
        "LSTM",
        "bidirectional",
        name="with numbers",
        activations=["HardSigmoid", "Affine", "ScaledTanh", "Sigmoid", "LeakyRelu", "ThresholdedRelu"],
        activation_alpha=[0.3, 0.7, 0.8, 0.2, 0.1],
        activation_beta=[0.4, 0.1, 0.9],
    ),
    row("GRU", name="soft", activations=["Sigmoid", "Softsign"]),
    row("GRU", name="soft plus", activations=["HardSigmoid", "Softplus"]),
    row("RNN", name="relu", activations=["Relu"]),
    row("RNN", "bidirectional", "relu and elu", activations=["Relu", "Elu"], activation_alpha=[0.5]),
    replace(row("RNN", name="no alpha", activations=["Affine"]), refused="without its alpha or beta", opsets=(22,)),
    replace(row("RNN", name="unknown", activations=["Sine"]), refused="is not known", opsets=(22,)),
    replace(row("LSTM", name="too few", activations=["Tanh"]), refused="does not fit", opsets=(22,)),
]


@pytest.mark.parametrize(("row", "opset"), cases(ROWS))
def test_forward(row: Row, opset: int) -> None:
    # onnxruntime wants a length for each of the batch, also where all are the same.
    if row.name.endswith("all as long"):
        row = replace(row, expected=_without_lengths(row, opset))
    forward_matches_onnxruntime(row, opset)


def _without_lengths(row: Row, opset: int) -> Any:
    bare = replace(row, inputs=[*row.inputs[:4], None, *row.inputs[5:]])
    session = plain_session(model(bare, opset).SerializeToString())
    return lambda x, *_: tuple(session.run(None, {"x0": x}))


@pytest.mark.parametrize(("row", "opset"), cases(ROWS, gradient=True))
def test_gradient(row: Row, opset: int) -> None:
    gradient_matches_differences(row, opset)


@pytest.mark.parametrize("clip", [0.0, 0.3])
@pytest.mark.parametrize("direction", ["reverse", "bidirectional"])
@pytest.mark.parametrize("kind", list(GATES))
def test_batch_first(kind: str, direction: str, clip: float) -> None:
    """onnxruntime has no kernel for layout 1: it is asked for layout 0, and its answer turned."""
    time_first = row(kind, direction, states=True, **({"clip": clip} if clip else {"linear_before_reset": 1}))
    if kind != "GRU":
        time_first.attrs.pop("linear_before_reset", None)  # type: ignore[attr-defined]
    inputs = [
        replace(i, shape=(i.shape[1], i.shape[0], i.shape[2])) if isinstance(i, Data) else i for i in time_first.inputs
    ]
    session = plain_session(model(time_first, 14).SerializeToString())

    def expected(*given: Any) -> tuple[Any, ...]:
        feeds = {f"x{i}": g.swapaxes(0, 1).copy() for i, g in enumerate(given) if isinstance(inputs[i], Data)}
        y, *last = session.run(None, feeds)
        return y.transpose(2, 0, 1, 3), *[state.swapaxes(0, 1) for state in last]

    batch_first = replace(time_first, inputs=inputs, attrs={**time_first.attrs, "layout": 1}, expected=expected)
    forward_matches_onnxruntime(batch_first, 14)
    gradient_matches_differences(batch_first, 14)


@pytest.mark.parametrize("kind", list(GATES))
def test_gradient_in_single_precision(kind: str) -> None:
    """The fused kernels for float32 are others than those for float64."""
    fused = row(kind, "bidirectional", **({"linear_before_reset": 1} if kind == "GRU" else {}))
    gradients = []
    for dtype in (torch.float32, torch.float64):
        graph, _ = build(fused, 14, dtype)
        x = torch.from_numpy(values(fused, 5)["x0"]).to(dtype).requires_grad_()
        y = graph.run(5, x)[0]
        y.backward(torch.linspace(-1, 1, y.numel(), dtype=dtype).reshape(y.shape))
        assert x.grad is not None
        gradients.append(x.grad.double())
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("clip", [{}, {"clip": 0.3}])
def test_states_stored_for_a_fixed_batch(clip: dict[str, float]) -> None:
    state = np.repeat(normal(1, 1, HIDDEN), 2, 1)
    stored = row("LSTM", **clip)
    stored = replace(stored, inputs=[*stored.inputs[:5], state, 2 * state, None])
    session = plain_session(model(stored, 14).SerializeToString())

    def expected(x: Any, *_: Any) -> tuple[Any, ...]:
        parts = [session.run(None, {"x0": x[:, [i, i]]}) for i in range(x.shape[1])]
        first = [[out[..., :1, :] for out in part] for part in parts]
        return tuple(np.concatenate(outs, -2) for outs in zip(*first, strict=True))

    forward_matches_onnxruntime(replace(stored, expected=expected), 14)
    rows_differ = replace(stored, inputs=[*stored.inputs[:5], normal(1, 2, HIDDEN)], refused="differ between the rows")
    forward_matches_onnxruntime(rows_differ, 14)


test_compiles = compile_test(
    [row("LSTM"), row("GRU", "bidirectional", states=True), row("LSTM", lengths=LENGTHS), row("RNN", clip=0.3)], 14
)
