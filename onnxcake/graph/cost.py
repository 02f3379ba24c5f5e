"""Estimate what a graph costs to run."""

from __future__ import annotations

import math
from collections.abc import Sequence

import onnx

from .build_log import Record
from .convert import Converted

Shapes = Sequence[tuple[int, ...] | None]


def multiply_adds(graph: Converted, output: str) -> int:
    """Count the multiply-adds of one input up to ``output``: convolutions, matrix products, recurrent layers."""
    return round(sum(_node_cost(record) for record in graph.nodes_reaching(output)) / graph.batch)


def costs(graph: Converted) -> dict[str, int]:
    """Count the costs of running a graph besides multiply-adds (``macs``, 0 here).

    ``steps``: its operators, loops unrolled; ``turns``: at most so many time steps of recurrent layers, and iterations
    of loops over an axis, that are taken when it is run.
    """
    turns = 0
    for record in graph.records:
        if record.op in ("LSTM", "GRU", "RNN") and record.inputs[0]:
            turns += max(record.inputs[0][:2])
        elif record.op in ("Scan", "Loop"):
            turns += max((size for shape in record.inputs if shape for size in shape), default=1)
    return {"macs": 0, "steps": len(graph.records), "turns": turns}


def dearest(graph: Converted, output: str) -> Record:
    """Find the node with the most multiply-adds among those that ``output`` depends on."""
    return max(graph.nodes_reaching(output), key=_node_cost)


def _node_cost(record: Record) -> int:
    """Count the multiply-adds of one node at the trial batch."""
    return of_node(record.proto, record.inputs, record.outputs)


def of_node(proto: onnx.NodeProto, ins: Shapes, outs: Shapes) -> int:
    """Count the multiply-adds of a node between values of these shapes; None stands for an absent input."""
    kind = proto.op_type
    out = outs[0] if outs else None
    if out is None or not ins or ins[0] is None:
        return 0
    weight = ins[1] if len(ins) > 1 else None
    # Quantised products are written as these by their converters, and counted there.
    if kind in ("Conv", "FusedConv") and weight is not None:
        return math.prod(out) * math.prod(weight[1:])
    if kind == "ConvTranspose" and weight is not None:
        return math.prod(ins[0]) * math.prod(weight[1:])
    if kind in ("LSTM", "GRU", "RNN") and weight is not None and len(ins) > 2 and ins[2] is not None:
        steps = ins[0][0] * ins[0][1]
        return steps * (math.prod(weight) + math.prod(ins[2]))
    if kind in ("Gemm", "FusedGemm") and weight is not None:
        transposed = any(a.name == "transA" and a.i for a in proto.attribute)
        return math.prod(out) * ins[0][0 if transposed else 1]
    if kind in ("MatMul", "FusedMatMul", "MatMulNBits"):
        return math.prod(out) * (ins[0][-1] if ins[0] else 1)
    if kind in ("Attention", "MultiHeadAttention") and len(ins[0]) >= 3 and weight is not None:
        return 2 * math.prod(ins[0]) * weight[-2] if len(weight) > 1 else 0
    return 0
