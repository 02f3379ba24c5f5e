"""Define the parts of a probe, and what a teacher asks of one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ...core.arrays import Array
from ...core.json_files import OPTIONAL
from ...core.text import printable
from ...teacher.signature import Signature


@dataclass(frozen=True)
class Takes:
    """Describe one of the inputs that a teacher's file is fed.

    Attributes:
        name: in the file.
        shape: of one sample, without the batch; None for a size that the file leaves open.
        dtype: the file's, such as float32, int64, bool or string.
    """

    name: str
    shape: tuple[int | None, ...]
    dtype: str = "float32"

    def fits(self, array: Array) -> bool:
        """Tell whether an array is [n, *shape]."""
        sizes = array.shape[1:]
        return array.ndim == len(self.shape) + 1 and all(
            asked in (None, size) for asked, size in zip(self.shape, sizes, strict=True)
        )

    def __str__(self) -> str:
        return f"[{', '.join(['n', *('?' if size is None else str(size) for size in self.shape)])}]"


@dataclass(frozen=True)
class Wanted:
    """Hold what a teacher asks of a probe: the inputs it is fed, its signature, its classes' names if known."""

    takes: tuple[Takes, ...]
    signature: Signature
    class_names: tuple[str, ...] = ()


@dataclass(frozen=True)
class ProbePart:
    """Hold the content of one source: arrays [n, …] by input, labels [n] or [n, labels] int64, and notes on them."""

    source: Path
    feeds: Mapping[str, Array]
    labels: Array | None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class ProbeSource:
    """Describe a probe in a report; the attributes are those of `Probe`, ``notes`` in printable characters."""

    name: str
    sha256: str
    notes: tuple[str, ...] | None = field(default=None, metadata=OPTIONAL)


@dataclass(frozen=True)
class Probe:
    """Hold real inputs, as the teacher's file takes them.

    Attributes:
        inputs: the signature's input [n, …], float32.
        labels: right classes [n], or labels set [n, labels], int64, if they are known.
        name: the source's.
        digest: of all numbers.
        feeds: the file's inputs [n, …] by name, each in the file's own type.
        notes: how the source was interpreted, in words for the user.
    """

    inputs: Array
    labels: Array | None
    name: str
    digest: str
    feeds: Mapping[str, Array] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def source(self) -> ProbeSource:
        """Describe where the inputs come from."""
        return ProbeSource(self.name, self.digest, tuple(map(printable, self.notes)) or None)
