"""Name the type of the arrays that pass between files, processes and onnxruntime."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

Array = npt.NDArray[Any]  # of any shape and element type
