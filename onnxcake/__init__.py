"""Data-free extraction of a smaller student.onnx from any teacher.onnx.

The names here are what the ``onnxcake`` command itself uses. They are imported when first touched, so that
``import onnxcake`` does not load torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .version import __version__

__all__ = [
    "OnnxcakeError",
    "Progress",
    "Recipe",
    "Report",
    "Store",
    "StoreDataset",
    "Teacher",
    "TeacherOptions",
    "__version__",
    "bench",
    "extract",
    "inspect",
    "record",
    "shrink",
    "train",
    "verify",
]

if TYPE_CHECKING:
    from .commands.bench import bench
    from .commands.extract import extract
    from .commands.inspect import inspect
    from .commands.record import record
    from .commands.shrink import shrink
    from .commands.train import train
    from .commands.verify import verify
    from .core.errors import OnnxcakeError
    from .core.progress import Progress
    from .recipe.recipe import Recipe
    from .report.report import Report
    from .store.dataset import StoreDataset
    from .store.store import Store
    from .teacher.options import TeacherOptions
    from .teacher.teacher import Teacher

_HOME = {
    "OnnxcakeError": "core.errors",
    "Progress": "core.progress",
    "Recipe": "recipe.recipe",
    "Report": "report.report",
    "Store": "store.store",
    "StoreDataset": "store.dataset",
    "Teacher": "teacher.teacher",
    "TeacherOptions": "teacher.options",
    "bench": "commands.bench",
    "extract": "commands.extract",
    "inspect": "commands.inspect",
    "record": "commands.record",
    "shrink": "commands.shrink",
    "train": "commands.train",
    "verify": "commands.verify",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'onnxcake' has no attribute {name!r}")
    return getattr(import_module(f"onnxcake.{_HOME[name]}"), name)
