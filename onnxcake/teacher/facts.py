"""Hold what an examination has found out about a teacher."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from ..core.json_files import EXACT
from .signature import Signature


@dataclass(frozen=True)
class Facts:
    """Hold what an examination has found out about a teacher; plain data, kept beside a run.

    Attributes:
        name: the file's name.
        digest: sha256 of the file, and of its external files.
        size_bytes: of all of them.
        parameters: numbers in the weights that the output depends on.
        multiply_adds: for one input.
        operators: how often each operator occurs.
        opset: the file's.
        parity: the largest relative difference between the graph and onnxruntime that was seen.
        fixed_batch: the batch that the graph is run in, where the file's cannot be freed.
        signature: what goes in and what comes out.
        baked_batch: the only batch that onnxruntime runs, where the file declares a free one.
        class_names: as the file names its classes, in the order of their scores; empty if it does not.
    """

    __pydantic_config__ = EXACT
    name: str
    digest: str
    size_bytes: int
    parameters: int
    multiply_adds: int
    operators: dict[str, int]
    opset: int
    parity: float
    fixed_batch: int | None
    signature: Signature
    baked_batch: int | None = None
    class_names: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Convert to plain data, for `from_dict`."""
        return asdict(self)

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> Facts:
        """Restore the facts from `as_dict`'s plain data.

        Raises:
            TypeError, KeyError: if they are not complete.
        """
        names = tuple(value.get("class_names", ()))
        return cls(**{**value, "signature": Signature.from_dict(value["signature"]), "class_names": names})
