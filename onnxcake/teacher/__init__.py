"""The teacher: what goes in, what comes out, is it alive, answer and gradient."""

from .capabilities import LastLayer, Offers, Statistics, View
from .facts import Facts
from .options import Options
from .scores import way_back
from .signature import OutputKind, Signature, Task
from .teacher import Teacher

__all__ = [
    "Facts",
    "LastLayer",
    "Offers",
    "Options",
    "OutputKind",
    "Signature",
    "Statistics",
    "Task",
    "Teacher",
    "View",
    "way_back",
]
