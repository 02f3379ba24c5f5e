"""Weigh the evidence for numbers being class scores against that for an extractor's features."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

from torch import Tensor

from ..core.errors import UnsupportedTeacher
from ..core.text import shown
from ..graph.convert import Converted
from ..graph.values import Depends

_FEW = 32  # numbers up to which no extractor is taken for granted
_DATA_SETS = (100, 101, 102, 120, 196, 200, 365, 397, 527, 1000, 1001, 11221, 21841, 21843)
_LINEAR = {"Gemm", "MatMul", "Conv", "LinearClassifier", "SVMClassifier", "LinearRegressor", "FusedMatMul", "FusedGemm"}
_LINEAR |= {"QLinearConv", "QLinearMatMul", "MatMulInteger", "ConvInteger", "QGemm", "MatMulNBits", "Einsum"}
_PASSED = {"Identity", "Dropout", "Cast", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "ZipMap"}
_PASSED |= {"QuantizeLinear", "DequantizeLinear", "Add", "Sub", "Mul", "Div", "Sum"}
_POOLED = {"GlobalAveragePool", "ReduceMean", "AveragePool"}
_CUT = {"Relu", "LeakyRelu", "PRelu", "Elu", "Selu", "Celu", "Gelu", "Tanh", "HardSwish", "Mish", "Softplus", "Clip"}
_ENDS = _CUT | _POOLED | {"GlobalMaxPool", "MaxPool", "ReduceMax", "LSTM", "GRU", "RNN"}
_ENDS |= {"LayerNormalization", "SkipLayerNormalization", "BatchNormalization", "InstanceNormalization"}
_OF_CLASSES = r"logit|prob|score|class|label|pred|softmax|(^|[^a-z])cls"
_OF_LAYERS = r"(^|[/_.])conv(olution)?([123]d)?([/_.]?\d+)*$"  # as Keras and torch call convolutions
_OF_FEATURES = r"embed|feat|repr|hidden|latent|encod|descriptor|pool|vector"


@dataclass(frozen=True)
class Scores:
    """Hold the evidence that a file shows about an output of many unbounded numbers.

    Attributes:
        speaks_for, against: in words.
        weight: above or at zero where class scores are likelier.
    """

    speaks_for: tuple[str, ...]
    against: tuple[str, ...]
    weight: int


def weigh(graph: Converted, output: str, name: str, count: int) -> Scores:
    """Weigh the output's name, its last operators, the other outputs, metadata and the number of its numbers.

    Args:
        output: the output's safe name.
        name: its name in the file.
        count: numbers in one answer.
    """
    found: list[tuple[int, str]] = []
    if re.search(_OF_CLASSES, name, re.IGNORECASE):
        found.append((3, f"its name, {shown(name)}"))
    if re.search(_OF_FEATURES, name, re.IGNORECASE):
        found.append((-3, f"its name, {shown(name)}"))
    if re.search(_OF_LAYERS, name, re.IGNORECASE):
        found.append((-2, f"its name, {shown(name)}, is that of a layer inside"))
    if graph.values[output].seen[0].dim() > 3:
        found.append((-1, "it has the shape of maps"))
    if (beside := label_beside(graph, output)) is not None:
        found.append((3, f"output {graph.safe.name_of(beside)}, which holds labels"))
    if any(_lists(text, count) for text in graph.safe.metadata.values()):
        found.append((3, f"a list of {count} names in its metadata"))
    found += _weigh_last_operators(graph, output)
    if count < _FEW:
        found.append((2, "there are few"))
    elif count in _DATA_SETS:
        found.append((1, f"data sets have {count} classes"))
    elif count >= 2 * _FEW and count % _FEW == 0:
        found.append((-1, f"{count} is a usual number of features"))
    speaks_for, against = (tuple(why for weight, why in found if weight * sign > 0) for sign in (1, -1))
    return Scores(speaks_for, against, sum(weight for weight, _ in found))


def check_scores(graph: Converted, output: str, name: str, count: int, file: str) -> None:
    """Check that unbounded numbers are likelier class scores than features.

    Raises:
        UnsupportedTeacher: if not; the message lists the evidence for and against.
    """
    seen = weigh(graph, output, name, count)
    if seen.weight >= 0:
        return
    sides = f"for features: {'; '.join(seen.against)}"
    sides += f"; for class scores: {'; '.join(seen.speaks_for)}" if seen.speaks_for else ""
    raise UnsupportedTeacher(
        f"output {shown(name)} is {count} unbounded numbers for each input, which may be the scores of {count} classes "
        f"or the features that an extractor gives ({sides})",
        where=file,
        remedy="If they are class scores, say so with --task multiclass. Feature extractors cannot be used.",
    )


def check_places(graph: Converted, output: str, name: str, count: int, file: str) -> None:
    """Check that scores do not stand for the places of a signal: [n, 7500, 1] of inputs [n, 1, 7500].

    Raises:
        UnsupportedTeacher: if they may.
    """
    if graph.values[output].seen[0].dim() == 3 and count > 1 and count in graph.safe.input_shape:
        raise UnsupportedTeacher(
            f"output {shown(name)} holds {count} numbers for each input, as many as the input has places: one answer "
            "for each of them (segmentation, detection), as it seems, and not one for each input",
            where=file,
            remedy="If they are the scores of classes all the same, say so with --task multiclass. What answers for "
            "each place cannot be a teacher.",
        )


def label_beside(graph: Converted, output: str) -> str | None:
    """Find another output that holds one label, a whole number or a text, for each input."""
    for name in graph.safe.outputs:
        value = graph.values.get(name)
        if name == output or value is None or value.depends != Depends.DATA or not isinstance(value.seen[0], Tensor):
            continue
        sample = value.seen[0]
        whole = not (sample.dtype.is_floating_point or sample.dtype.is_complex)
        if whole and sample.dim() and sample.shape[0] == sample.numel() == graph.values["input"].seen[0].shape[0]:
            return name
    return None


def _weigh_last_operators(graph: Converted, output: str) -> list[tuple[int, str]]:
    """Weigh the operators that make an output, from the last linear layer on."""
    makers = {name: node for node in graph.safe.model.graph.node for name in node.output}
    passed, at = [], output
    while (node := makers.get(at)) is not None:
        if node.op_type in _LINEAR:
            break
        if node.op_type not in _PASSED | _ENDS:
            return []
        passed.append(node.op_type)
        data = [name for name in node.input if name in graph.values and graph.values[name].depends == Depends.DATA]
        if not data:
            return []
        if len(data) > 1:  # a residual sum, a gate
            return [(-2, f"it ends in {_first_end(passed) or node.op_type}, not in a linear layer")]
        at = data[0]
    ends = [op for op in passed if op in _ENDS]
    if node is None:
        return [(-2, f"it ends in {ends[0]}, not in a linear layer")] if ends else []
    averaged = [op for op in ends if op not in _POOLED]
    if not averaged:
        whole = node.op_type != "Conv" or _single(graph, node)
        return [(2 if whole else 1, f"it ends in a linear layer ({node.op_type})")]
    told = [(-2, f"it ends in {ends[0]}, not in a linear layer")]
    if node.op_type == "Conv" and "GlobalAveragePool" in ends and set(averaged) <= _CUT and _single(graph, node):
        told.append((1, "a convolution of single places is averaged"))  # as in Network in Network, arXiv:1312.4400
    return told


def _first_end(passed: list[str]) -> str | None:
    return next((op for op in passed if op in _ENDS), None)


def _single(graph: Converted, node: object) -> bool:
    weight = graph.values.get(node.input[1])  # type: ignore[attr-defined]
    return weight is not None and all(size == 1 for size in weight.seen[0].shape[2:])


def _lists(text: str, count: int) -> bool:
    """Tell whether a text of the metadata lists so many names or classes."""
    if len(text) > 1_000_000:
        return False
    try:
        value = json.loads(text)
    except ValueError:
        parts = [part for part in re.split(r"[,;\n]", text.strip().strip("[]{}")) if part.strip()]
        return len(parts) == count
    return isinstance(value, (list, dict)) and len(value) == count
