"""The student: architectures by name, and how one learns from a store."""

from .architectures import ARCHITECTURES
from .choose_architecture import choose
from .feature_match import MATCHES, Match
from .loss import Distillation, decisions
from .onnx_model import Start
from .onnx_student import OnnxStudent
from .optimisers import LEARNING_RATES, OPTIMISERS
from .shapes import shapes_of
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
    "OnnxStudent",
    "Regime",
    "Start",
    "Student",
    "Training",
    "choose",
    "count",
    "decisions",
    "make",
    "parameters",
    "shapes_of",
]
