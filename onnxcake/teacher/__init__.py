"""The teacher: what goes in, what comes out, is it alive, answer and gradient."""

from .facts import Facts
from .options import Options
from .scores import way_back
from .signature import OutputKind, Signature, Task
from .teacher import Teacher

__all__ = ["Facts", "Options", "OutputKind", "Signature", "Task", "Teacher", "way_back"]
