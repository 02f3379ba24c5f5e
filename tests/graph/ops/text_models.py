"""Models written in onnx's text form, for operators that need more than one node: tried as the harness tries a row."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from harness import BATCHES, Data, built, check_gradient, opened, versions
from onnx import helper
from onnxruntime.capi import onnxruntime_pybind11_state as refusals
from plain_session import plain_session

from onnxcake.graph.build import Builder
from onnxcake.graph.module import Graph

KNOWN = 25  # an opset that onnxruntime knows


@dataclass(frozen=True, eq=False)
class Written:
    """A model to try.

    Attributes:
        name: for pytest.
        text: from its inputs on, as in ``(float[N,3] x) => (float[N,3] y) { y = Neg (x) }``.
        inputs: the data, by name; see `harness.data`.
        op: whose versions are tried, from ``since`` to ``until``.
        gradient: whether it is differentiable.
        refused: if given, words in the reason that it is refused for.
        modules: how many of its steps are decided at run time.
        batches: those it is tried at.
    """

    name: str
    text: str
    inputs: Mapping[str, Data]
    op: str
    since: int = 1
    until: int = 10_000
    gradient: bool = True
    refused: str = ""
    modules: int = 0
    batches: Sequence[int] = BATCHES


def written(models: Iterable[Written], gradient: bool = False, refused: bool = False) -> list[Any]:
    """(model, opset) for `pytest.mark.parametrize`; the gradient and refusals at the newest opset alone."""
    made = []
    for model in models:
        opsets = [opset for opset in versions(model.op) if model.since <= opset <= model.until]
        assert opsets, f"{model.name} is valid at no opset"
        if bool(model.refused) != refused or (gradient and not model.gradient):
            continue
        opsets = opsets[-1:] if gradient or refused else opsets
        made += [pytest.param(model, opset, id=f"{model.name}-{opset}") for opset in opsets]
    return made


def proto_of(model: Written, opset: int) -> onnx.ModelProto:
    """The model, checked."""
    ir = max(helper.find_min_ir_version_for([helper.make_opsetid("", opset)]), 4)
    proto = onnx.parser.parse_model(f'<ir_version: {ir}, opset_import: ["": {opset}]> agraph {model.text}')
    onnx.checker.check_model(proto)
    return proto


def build_text(model: Written, opset: int) -> tuple[Graph, Builder]:
    """Build the model, whatever is refused."""
    return opened(proto_of(model, opset))


def values_of(model: Written, batch: int) -> dict[str, np.ndarray[Any, Any]]:
    """Its data for a batch."""
    return {name: given.values(batch, seed) for seed, (name, given) in enumerate(model.inputs.items())}


def matches_onnxruntime(model: Written, opset: int) -> None:
    """Assert that the module gives what onnxruntime gives, and is decided at run time where it should be alone."""
    graph = built(proto_of(model, opset))
    modules = sum(isinstance(step.function, torch.nn.Module) for step in graph.steps)
    assert modules == model.modules, f"{modules} modules"
    answer = _onnxruntime(model, opset)
    for batch in model.batches:
        given = values_of(model, batch)
        got = graph.run(batch, *[torch.from_numpy(array) for array in given.values()])
        for ours, theirs in zip(got, answer(**given), strict=True):
            _same(ours, theirs)


def gradient_matches(model: Written, opset: int) -> None:
    """Assert that the gradient is that of central differences, in float64."""
    graph, batch = built(proto_of(model, opset), precision=torch.float64), model.batches[-1]
    check_gradient(graph, batch, values_of(model, batch), most=10_000)


def is_refused(model: Written, opset: int) -> None:
    """Assert that the model is refused, for the reason that it gives."""
    _, builder = build_text(model, opset)
    assert any(model.refused in blocked.why for blocked in builder.blocked), builder.blocked


def forward_and_gradient(models: Iterable[Written]) -> tuple[Callable[..., None], ...]:
    """Make the two tests of a table of models: forward and gradient."""
    models = list(models)

    @pytest.mark.parametrize(("model", "opset"), written(models))
    def test_forward(model: Written, opset: int) -> None:
        matches_onnxruntime(model, opset)

    @pytest.mark.parametrize(("model", "opset"), written(models, gradient=True))
    def test_gradient(model: Written, opset: int) -> None:
        gradient_matches(model, opset)

    return test_forward, test_gradient


def refusal_test(models: Iterable[Written]) -> Callable[..., None]:
    """Make the test of the models that are refused."""

    @pytest.mark.parametrize(("model", "opset"), written(models, refused=True))
    def test_refusals(model: Written, opset: int) -> None:
        is_refused(model, opset)

    return test_refusals


def _onnxruntime(model: Written, opset: int) -> Callable[..., Any]:
    try:
        session = plain_session(proto_of(model, opset).SerializeToString())
    except refusals.Fail:  # a version newer than onnxruntime, which only allows more element types
        if opset == KNOWN:
            raise
        return _onnxruntime(model, KNOWN)
    return lambda **given: session.run(None, given)


def _same(ours: Any, theirs: Any) -> None:
    if isinstance(theirs, list):
        assert len(ours) == len(theirs)
        for one, other in zip(ours, theirs, strict=True):
            _same(one, other)
    else:
        got = ours.detach().numpy()
        assert got.shape == theirs.shape, f"shape {got.shape}, should be {theirs.shape}"
        assert got.dtype == theirs.dtype
        np.testing.assert_allclose(got, theirs, rtol=1e-4, atol=1e-6)
