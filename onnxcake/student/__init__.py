"""The student: architectures by name, and how one learns from a store."""

from .architectures import ARCHITECTURES
from .auto import choose
from .loss import Distillation, decisions
from .match import MATCHES, Match
from .optimise import LEARNING_RATES, OPTIMISERS
from .student import Student, count, make, parameters
from .training import Lesson, Regime, Training

__all__ = [
    "ARCHITECTURES",
    "LEARNING_RATES",
    "MATCHES",
    "OPTIMISERS",
    "Distillation",
    "Lesson",
    "Match",
    "Regime",
    "Student",
    "Training",
    "choose",
    "count",
    "decisions",
    "make",
    "parameters",
]
