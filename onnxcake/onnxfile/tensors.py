"""Convert ONNX element types and tensors to torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import torch
from onnx import AttributeProto, TensorProto, numpy_helper
from torch import Tensor

DTYPES: dict[int, torch.dtype] = {
    TensorProto.FLOAT: torch.float32,
    TensorProto.DOUBLE: torch.float64,
    TensorProto.FLOAT16: torch.float16,
    TensorProto.BFLOAT16: torch.bfloat16,
    TensorProto.FLOAT8E4M3FN: torch.float8_e4m3fn,
    TensorProto.FLOAT8E4M3FNUZ: torch.float8_e4m3fnuz,
    TensorProto.FLOAT8E5M2: torch.float8_e5m2,
    TensorProto.FLOAT8E5M2FNUZ: torch.float8_e5m2fnuz,
    TensorProto.INT8: torch.int8,
    TensorProto.INT16: torch.int16,
    TensorProto.INT32: torch.int32,
    TensorProto.INT64: torch.int64,
    TensorProto.UINT8: torch.uint8,
    TensorProto.UINT16: torch.uint16,
    TensorProto.UINT32: torch.uint32,
    TensorProto.UINT64: torch.uint64,
    TensorProto.BOOL: torch.bool,
    # Types of two and four bits are kept one to a byte.
    TensorProto.INT4: torch.int8,
    TensorProto.UINT4: torch.uint8,
    TensorProto.INT2: torch.int8,
    TensorProto.UINT2: torch.uint8,
    TensorProto.FLOAT4E2M1: torch.float8_e4m3fn,  # which has all its numbers
    TensorProto.COMPLEX64: torch.complex64,
    TensorProto.COMPLEX128: torch.complex128,
}


def type_name(elem_type: int) -> str:
    """Return an element type's name for messages, such as float16."""
    known = elem_type in TensorProto.DataType.values()
    return TensorProto.DataType.Name(elem_type).lower() if known else f"type {elem_type}"


def to_tensor(proto: onnx.TensorProto, dtype_of: Callable[[int], torch.dtype]) -> Tensor:
    """Convert a tensor's values to a torch tensor (a copy) of the dtype that ``dtype_of`` returns for its type.

    Raises:
        KeyError: for an element type without a torch dtype (strings).
        ValueError: if its bytes do not fit its shape.
    """
    dtype = dtype_of(proto.data_type)
    array = np.asarray(numpy_helper.to_array(proto))
    if array.dtype.kind == "V" or array.dtype.name not in _NUMPY:  # ml_dtypes: bfloat16, float8, int4
        array = array.astype(np.float32 if dtype.is_floating_point else np.int64)
    return torch.from_numpy(array.copy()).to(dtype)


def dense_of(sparse: onnx.SparseTensorProto, dtype_of: Callable[[int], torch.dtype]) -> Tensor:
    """Convert a sparse tensor to a dense torch tensor, zeros elsewhere."""
    values, places = to_tensor(sparse.values, dtype_of), to_tensor(sparse.indices, dtype_of).long()
    flat = torch.zeros(tuple(sparse.dims), dtype=values.dtype)
    if places.dim() == 1:
        flat.view(-1)[places] = values
    else:
        flat[tuple(places.T)] = values
    return flat


def from_attribute(attribute: AttributeProto, dtype_of: Callable[[int], torch.dtype]) -> Any:
    """Convert an attribute to int, float, str, a list of these, a tensor, or a GraphProto."""
    kind = attribute.type
    if kind == AttributeProto.STRING:
        return attribute.s.decode("utf-8", "replace")
    if kind == AttributeProto.STRINGS:
        return [s.decode("utf-8", "replace") for s in attribute.strings]
    if kind == AttributeProto.TENSOR:
        return to_tensor(attribute.t, dtype_of)
    if kind == AttributeProto.SPARSE_TENSOR:
        return dense_of(attribute.sparse_tensor, dtype_of)
    if kind == AttributeProto.SPARSE_TENSOR:
        return dense_of(attribute.sparse_tensor, dtype_of)
    value = onnx.helper.get_attribute_value(attribute)
    return value if kind in (AttributeProto.INT, AttributeProto.FLOAT, AttributeProto.GRAPH) else list(value)


_NUMPY = {
    *("float16", "float32", "float64", "complex64", "complex128", "bool"),
    *("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
}
