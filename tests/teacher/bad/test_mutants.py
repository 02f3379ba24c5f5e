"""Sound teachers changed at random, field by field: each is refused in words, or still a teacher."""

from __future__ import annotations

import contextlib
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from refusals import saved
from test_hostile_names import clean_model
from test_odd_graphs import FLOW, ROWS

from onnxcake.core.errors import OnnxcakeError
from onnxcake.teacher import sandbox
from onnxcake.teacher.options import TeacherOptions

SEEDS = [
    *((row.model, TeacherOptions(**dict(row.said))) for row in (*ROWS.values(), *FLOW.values())),
    *([(clean_model(), TeacherOptions())] * 5),
]
OPERATORS = sorted({schema.name for schema in onnx.defs.get_all_schemas() if not schema.domain})
WHOLE = [0, 1, -1, 2, 3, 7, -7, 63, 64, 1000, 2**31 - 1, 2**31, -(2**31), 2**40, 2**62, -(2**63), 2**63 - 1]
NUMBERS = [0.0, 1.0, -1.0, 1e30, -1e30, float("nan"), float("inf"), 1e-30]


class Mutant:
    """A model that changes; every choice is drawn from ``rng``."""

    def __init__(self, model: onnx.ModelProto, rng: random.Random) -> None:
        self.model, self.rng = onnx.ModelProto.FromString(model.SerializeToString()), rng

    def change(self) -> None:
        self.graphs, self.nodes = [self.model.graph], []
        self._walk(self.model.graph.node)
        for function in self.model.functions:
            self._walk(function.node)
        self.names = [name for node in self.nodes for name in (*node.input, *node.output) if name] + ["nowhere", ""]
        self.graph = self.rng.choice(self.graphs)
        if self.nodes:
            self.rng.choice(CHANGES)(self, self.rng.choice(self.nodes))

    def _walk(self, nodes: Any) -> None:
        for node in nodes:
            self.nodes.append(node)
            for attribute in node.attribute:
                if attribute.HasField("g"):
                    self.graphs.append(attribute.g)
                    self._walk(attribute.g.node)

    def one_of(self, listed: Any) -> Any:
        return self.rng.choice(listed) if len(listed) else None

    def set_one(self, listed: Any, value: Any) -> None:
        if len(listed):
            listed[self.rng.randrange(len(listed))] = value

    def delete_one(self, listed: Any) -> None:
        if len(listed):
            del listed[self.rng.randrange(len(listed))]


def put(message: Any, name: str, content: Any) -> None:
    if message is not None:
        setattr(message, name, content)


def attribute_value(m: Mutant, node: onnx.NodeProto) -> None:
    attribute = m.one_of(node.attribute)
    if attribute is None:
        return
    attribute.i, attribute.f, attribute.s = (
        m.rng.choice(WHOLE),
        m.rng.choice(NUMBERS),
        m.rng.choice([b"", b"x", b"\xff"]),
    )
    m.set_one(attribute.ints, m.rng.choice(WHOLE))
    if attribute.HasField("t"):
        attribute.t.dims.append(m.rng.choice(WHOLE))


def weight_number(m: Mutant, node: onnx.NodeProto) -> None:
    weight = m.one_of(m.graph.initializer)
    numbers = {TensorProto.INT64: WHOLE, TensorProto.FLOAT: NUMBERS}.get(0 if weight is None else weight.data_type)
    if numbers is None:
        return
    with contextlib.suppress(ValueError):  # its shape was changed before
        array = numpy_helper.to_array(weight).copy().reshape(-1)
        m.set_one(array, m.rng.choice(numbers))
        weight.raw_data = array.tobytes()


def node_more(m: Mutant, node: onnx.NodeProto) -> None:
    m.graph.node.append(helper.make_node(m.rng.choice(OPERATORS), list(node.output[:1]), ["more"]))
    if m.graph.output:
        m.graph.output[0].name = "more"


def order(m: Mutant, node: onnx.NodeProto) -> None:
    nodes = [one.SerializeToString() for one in m.graph.node]
    m.rng.shuffle(nodes)
    del m.graph.node[:]
    m.graph.node.extend(onnx.NodeProto.FromString(one) for one in nodes)


def versions(m: Mutant, node: onnx.NodeProto) -> None:
    m.one_of(m.model.opset_import).version = m.rng.choice([*range(1, 27), 0, -1, 999])
    m.model.ir_version = m.rng.randrange(14)


def sizes(m: Mutant, node: onnx.NodeProto) -> None:
    dims = m.rng.choice([*m.model.graph.input, *m.model.graph.output]).type.tensor_type.shape.dim
    if dims and m.rng.random() < 0.7:
        m.rng.choice(dims).dim_value = m.rng.choice(WHOLE)
    else:
        dims.add().dim_value = m.rng.choice(WHOLE)


def another_result(m: Mutant, node: onnx.NodeProto) -> None:
    if m.graph.output:
        m.graph.output[0].name = m.rng.choice(m.names)


CHANGES: list[Callable[[Mutant, onnx.NodeProto], None]] = [
    lambda m, node: put(node, "op_type", m.rng.choice(OPERATORS)),
    lambda m, node: m.set_one(node.input, m.rng.choice(m.names)),
    lambda m, node: m.set_one(node.output, m.rng.choice(m.names)),
    lambda m, node: m.rng.choice([node.input, node.output]).append(m.rng.choice(m.names)),
    lambda m, node: m.delete_one(m.rng.choice([node.input, node.output, node.attribute])),
    attribute_value,
    lambda m, node: put(m.one_of(node.attribute), "type", m.rng.randrange(15)),
    lambda m, node: put(m.one_of(m.graph.initializer), "data_type", m.rng.randrange(26)),
    lambda m, node: m.set_one(getattr(m.one_of(m.graph.initializer), "dims", ()), m.rng.choice(WHOLE)),
    weight_number,
    lambda m, node: m.delete_one(m.graph.initializer),
    lambda m, node: m.delete_one(m.graph.node),
    lambda m, node: m.graph.node.append(onnx.NodeProto.FromString(node.SerializeToString())),
    node_more,
    order,
    versions,
    sizes,
    lambda m, node: put(
        m.rng.choice([*m.model.graph.input, *m.model.graph.output]).type.tensor_type, "elem_type", m.rng.randrange(26)
    ),
    another_result,
]


def outcome(number: int, folder: Path) -> str:
    """Examine a mutant and say what becomes of it; fail the test unless that is a teacher, or an error in words."""
    rng = random.Random(number)
    model, options = rng.choice(SEEDS)
    mutant = Mutant(model, rng)
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        mutant.change()
    exam = sandbox.examine(saved(mutant.model, folder), options)
    if exam.error is None:
        assert exam.facts is not None and np.isfinite(exam.facts.parity)
        return "a teacher"
    text = str(exam.error)
    assert isinstance(exam.error, OnnxcakeError) and exam.error.exit_code in (2, 4), f"mutant {number}: {text}"
    assert exam.error.what and exam.error.remedy and exam.error.where, f"mutant {number}: {text}"
    assert text.replace("\n", "").isprintable() and len(text) < 2500, f"mutant {number}: {text}"
    # Time and memory run out; nothing else may end an examination.
    assert "given up" not in text or "it took more than" in text, f"mutant {number}: {text}"
    return type(exam.error).__name__


def test_mutants(tmp_path: Path) -> None:
    outcomes = Counter(outcome(number, tmp_path) for number in range(150))
    assert {"a teacher", "BadTeacherFile", "UnsupportedTeacher"} <= set(outcomes), outcomes


@pytest.mark.slow
@pytest.mark.parametrize("thousand", range(1, 11))
def test_many_mutants(thousand: int, tmp_path: Path) -> None:
    for number in range(1000 * thousand, 1000 * thousand + 1000):
        outcome(number, tmp_path)
