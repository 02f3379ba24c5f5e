"""Export a student module to ``student.onnx`` under the teacher's own names, free of host paths."""

from __future__ import annotations

import contextlib
import io
import itertools
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import onnx
import torch
from torch import nn

from ..core.errors import OnnxcakeError
from ..core.remedies import OURS
from .int8_weights import with_whole_weights
from .walk import graphs, nodes

OPSETS = (13, 17)  # the range that both exporters and every runtime of the last years read
PRODUCER = "onnxcake"
_NONE: Mapping[str, str] = {}


class ExportFailed(OnnxcakeError):
    """Student that neither of torch's exporters could write: a bug."""


def export(
    module: nn.Module,
    shape: tuple[int, ...],
    *,
    input_name: str,
    output_name: str,
    opset: int,
    dtype: str = "float32",
    check: Callable[[bytes], None] = lambda content: None,
) -> bytes:
    """Export ``module`` in eval mode to the bytes of an equal ONNX model whose batch is dynamic.

    Args:
        module: maps [batch, *shape] float32 to [batch, classes].
        shape: one input's shape, without the batch.
        input_name: the teacher's input name, so that the student drops into its place.
        output_name: the teacher's output name.
        opset: the teacher's opset, kept where it lies within `OPSETS`.
        dtype: what the file takes, such as uint8; turned into float32 first.
        check: raises if a file is not as it should be; the other exporter is tried then.

    Raises:
        ExportFailed: if no exporter writes a file that passes.
    """
    module = module.eval().to("cpu")
    if dtype != "float32":
        module = nn.Sequential(_Float(), module)
    example = torch.zeros(2, *shape, dtype=getattr(torch, dtype))
    opset = min(max(opset, OPSETS[0]), OPSETS[1])
    errors = []
    for exporter in (_export_traced, _export_captured):
        try:
            with _quiet():
                proto = exporter(module, example, opset)
            proto = named(with_whole_weights(clean(proto)), input_name, output_name)
            onnx.checker.check_model(proto, full_check=True)
            content: bytes = proto.SerializeToString(deterministic=True)
            check(content)
            return content
        except Exception as error:  # noqa: BLE001 - the next exporter may do better; all reasons are told
            errors.append(f"{exporter.__name__.strip('_')}: {error}")
    raise ExportFailed("the student cannot be exported: " + "; ".join(errors), remedy=OURS)


class _Float(nn.Module):
    """Convert inputs of other types to float32."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.float()


def _export_traced(module: nn.Module, example: torch.Tensor, opset: int) -> onnx.ModelProto:
    """Export with torch's TorchScript exporter, which is fast and writes plain graphs."""
    buffer = io.BytesIO()
    torch.onnx.export(
        module,
        (example,),
        buffer,  # type: ignore[arg-type] # the stub forgets that this exporter writes to files too
        input_names=["input"],
        output_names=["output"],
        dynamic_axes={"input": {0: "batch"}, "output": {0: "batch"}},
        opset_version=opset,
        dynamo=False,
    )
    return onnx.load_model_from_string(buffer.getvalue())


def _export_captured(module: nn.Module, example: torch.Tensor, opset: int) -> onnx.ModelProto:
    """Export with torch's current exporter."""
    program = torch.onnx.export(
        module,
        (example,),
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        opset_version=max(opset, 18),  # the oldest it writes
        dynamo=True,
    )
    return program.model_proto  # type: ignore[union-attr]


def clean(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Remove doc strings, metadata and producer details, which hold stack traces with this host's paths."""
    proto.doc_string = ""
    proto.producer_name, proto.producer_version = PRODUCER, ""
    del proto.metadata_props[:]
    _clean_graph(proto.graph)
    for function in proto.functions:
        function.doc_string = ""
        _clean_items(function.node)
    return proto


def _clean_graph(graph: onnx.GraphProto) -> None:
    graph.name, graph.doc_string = "student", ""
    with contextlib.suppress(AttributeError):  # older onnx has none
        del graph.metadata_props[:]
    del graph.value_info[:]
    _clean_items([*graph.node, *graph.input, *graph.output, *graph.initializer])


def _clean_items(items: Any) -> None:
    for item in items:
        item.doc_string = ""
        if hasattr(item, "metadata_props"):
            del item.metadata_props[:]
        for attribute in getattr(item, "attribute", ()):
            attribute.doc_string = ""
            if attribute.HasField("g"):
                _clean_graph(attribute.g)


def named(proto: onnx.ModelProto, source: str, output: str, others: Mapping[str, str] = _NONE) -> onnx.ModelProto:
    """Rename a model's input and output; torch's exporters refuse or change some names (numbers, names in use).

    Args:
        source: the input's new name.
        output: the output's new name.
        others: new names of other values, by their present ones, used where they are free.
    """
    graph = proto.graph
    new = {graph.input[0].name: source, graph.output[0].name: output}
    inner = {weight.name for weight in graph.initializer} | {name for node in nodes(proto) for name in node.output}
    taken = inner | {source, output}
    for name in sorted((inner - new.keys()) & others.keys()):
        if others[name] and others[name] not in taken:
            new[name] = others[name]
            taken.add(others[name])
    for name in sorted((inner - new.keys()) & {source, output}):
        new[name] = next(free for free in (f"{name}_{n}" for n in itertools.count()) if free not in taken)
    for each in graphs(proto):
        for item in (*each.input, *each.output, *each.initializer, *(s.values for s in each.sparse_initializer)):
            item.name = new.get(item.name, item.name)
    for node in nodes(proto):
        node.input[:] = [new.get(name, name) for name in node.input]
        node.output[:] = [new.get(name, name) for name in node.output]
    return proto


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence what the exporters print and warn about; errors still come through as exceptions."""
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            log.setLevel(level)
