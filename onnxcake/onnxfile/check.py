"""Run ONNX's checker on a model that may be large, or written by onnxruntime."""

from __future__ import annotations

import re
from typing import Any

import onnx

from ..core.errors import BadTeacherFile, UnsupportedTeacher
from ..core.remedies import SOUND
from ..core.text import first_line, shown
from .walk import nested

_ASIDE = "unregistered"


def check(proto: onnx.ModelProto, weights: dict[str, Any], name: str) -> None:
    """Check a model with ONNX's checker, its large weights declared as inputs, as the checker copies weights.

    Raises:
        BadTeacherFile: if the checker refuses it.
        UnsupportedTeacher: for an opset newer than those known here.
    """
    skeleton = onnx.ModelProto()
    skeleton.CopyFrom(proto)
    graph = skeleton.graph
    small = [tensor for tensor in graph.initializer if tensor.name not in weights]
    large = [tensor for tensor in graph.initializer if tensor.name in weights]
    del graph.initializer[:]
    graph.initializer.extend(small)
    for value in (*graph.input, *graph.output):  # the checker wants one; whether it has to be known, is decided later
        if value.type.HasField("tensor_type"):
            value.type.tensor_type.shape.SetInParent()
    known = {value.name for value in graph.input}
    for tensor in large:
        if tensor.name not in known:
            known.add(tensor.name)
            graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    opset = max((o.version for o in proto.opset_import if not o.domain), default=0)
    newest = onnx.defs.onnx_opset_version()
    if opset > newest:
        raise UnsupportedTeacher(
            f"its opset {opset} is newer than the newest that is known here, {newest}",
            where=name,
            remedy=f"Upgrade onnx; or convert the file to opset {newest} where a newer onnx is installed: "
            "onnx.version_converter.convert_version.",
        )
    _skip_unregistered(skeleton, opset)
    try:
        onnx.checker.check_model(skeleton)
    except Exception as error:
        unmade = re.search(r"input '([^']*)' of node:.*is not output of any previous nodes", str(error), re.DOTALL)
        if unmade:  # nodes are sorted by now
            raise BadTeacherFile(
                f"nothing in it makes {shown(unmade[1])}, which a node reads", where=name, remedy=SOUND
            ) from error
        raise BadTeacherFile(
            f"ONNX's checker refuses it: {first_line(ValueError(' '.join(str(error).split())))}",
            where=name,
            remedy=SOUND,
        ) from error


def _skip_unregistered(model: onnx.ModelProto, opset: int) -> None:
    """Move operators that the standard does not have at this opset to a domain that the checker skips.

    onnxruntime's optimiser writes such (LayerNormalization before opset 17, SimplifiedLayerNormalization). Operators
    that are not known at all are reported later, all at once, with their nodes.
    """
    found = False
    for node in nested(model.graph.node):
        if not node.domain and opset > 0 and not _is_registered(node.op_type, opset):
            node.domain, found = _ASIDE, True
    if found:
        model.opset_import.append(onnx.helper.make_opsetid(_ASIDE, 1))


def _is_registered(op_type: str, opset: int) -> bool:
    try:
        return not onnx.defs.get_schema(op_type, opset, "").deprecated
    except Exception:  # noqa: BLE001 - onnx's own exception type
        return False
