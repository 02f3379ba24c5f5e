"""Read the names of a classifier's classes, where its file has them."""

from __future__ import annotations

import ast
import json
import math
import re
from collections.abc import Iterable
from typing import Any

import onnx
from onnx import numpy_helper

from .load import LIMIT_METADATA

# The attributes of ai.onnx.ml, in the specification's words; those of ZipMap come first: it names what is put out.
_OPERATORS = ("ZipMap", "LinearClassifier", "SVMClassifier", "TreeEnsembleClassifier")
_ATTRIBUTES = {"classlabels_strings", "classlabels_int64s", "classlabels_ints"}
_KEYS = {"names", "classes", "class_names", "labels", "label_names", "id2label"}  # of metadata, as exporters write them
_LONGEST = 1 << 20  # characters of metadata
_MOST = 100_000  # classes
_PASSES = {"Cast", "Reshape", "Identity", "Squeeze", "Flatten"}


def class_names(model: onnx.ModelProto) -> tuple[str, ...]:
    """Read the names of the classes, in the order of their scores; numbers as text, () if there are none.

    They stand in attributes of ai.onnx.ml's classifiers, in the table that skl2onnx looks labels up in, or in the
    file's metadata, as a list or a table from number to name in JSON or in Python's notation.
    """
    found = (*_in_attributes(model.graph), *_in_label_tables(model.graph), *_in_metadata(model))
    return found[0] if found else ()


def _in_attributes(graph: onnx.GraphProto) -> Iterable[tuple[str, ...]]:
    for operator in _OPERATORS:
        nodes = [node for node in graph.node if node.op_type == operator and node.domain == "ai.onnx.ml"]
        named = {_attribute_values(a) for node in nodes for a in node.attribute if a.name in _ATTRIBUTES} - {()}
        if len(named) == 1:  # one classifier for each class names two classes each
            yield from named


def _attribute_values(attribute: onnx.AttributeProto) -> tuple[str, ...]:
    return tuple(_text(s) for s in attribute.strings) or tuple(map(str, attribute.ints))


def _in_label_tables(graph: onnx.GraphProto) -> Iterable[tuple[str, ...]]:
    """Read the tables of labels whose entries the graph outputs."""
    ends = {output.name for output in graph.output}
    for node in reversed(graph.node):
        if ends.isdisjoint(node.output):
            continue
        if node.op_type in _PASSES and not node.domain:
            ends.add(node.input[0])
        if node.op_type == "ArrayFeatureExtractor" and len(node.input):
            tables = [table for table in graph.initializer if table.name == node.input[0] and not table.external_data]
            yield from (_table(table) for table in tables if table.data_type in (6, 7, 8))


def _table(tensor: onnx.TensorProto) -> tuple[str, ...]:
    if tensor.data_type == onnx.TensorProto.STRING:
        return tuple(map(_text, tensor.string_data))
    if len(tensor.dims) > 2 or math.prod(tensor.dims) > _MOST:
        return ()
    try:
        return tuple(map(str, numpy_helper.to_array(tensor).reshape(-1).tolist()))
    except ValueError:  # its data are not as many as its sizes say: onnxruntime is about to refuse the file
        return ()


def _in_metadata(model: onnx.ModelProto) -> Iterable[tuple[str, ...]]:
    for entry in model.metadata_props[:LIMIT_METADATA]:
        if entry.key.casefold() in _KEYS and len(entry.value) <= _LONGEST and (names := _parse_names(entry.value)):
            yield names


def _parse_names(text: str) -> tuple[str, ...]:
    for parse in (json.loads, ast.literal_eval):
        try:
            return _in_order(parse(text))
        except (ValueError, TypeError, OverflowError, SyntaxError, RecursionError, MemoryError):
            continue
    parts = [part.strip() for part in re.split(r"[\n,;]", text)]
    return tuple(parts) if len(parts) > 1 and all(parts) else ()


def _in_order(value: Any) -> tuple[str, ...]:
    """Return a list of names, or the values of a table whose keys are 0, 1, 2 …, as a tuple; () for anything else."""
    if isinstance(value, dict):
        by_place = {int(key): name for key, name in value.items()}
        value = [by_place[place] for place in sorted(by_place)] if set(by_place) == set(range(len(by_place))) else []
    plain = isinstance(value, (list, tuple)) and all(isinstance(name, (str, int)) for name in value)
    return tuple(map(str, value)) if plain else ()


def _text(content: bytes) -> str:
    return content.decode("utf-8", errors="replace")
