"""The teacher: what goes in, what comes out, is it alive, answer and gradient."""

from .signature import OutputKind, Signature
from .teacher import Facts, Teacher, way_back

__all__ = ["Facts", "OutputKind", "Signature", "Teacher", "way_back"]
