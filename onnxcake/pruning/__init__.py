"""A student cut out of the teacher's own graph, with the teacher's own weights."""

# Each file of rules registers its operators.
from . import (
    rules_elementwise,
    rules_linear,
    rules_normalisation,
    rules_reshaping,
    rules_shaping,
)
from .goal import HALF, Goal, Layer, LowRank, NothingToCut, Pruned, Score, Shape, Tools
from .pruner import Pruner

__all__ = [
    "HALF",
    "Goal",
    "Layer",
    "LowRank",
    "NothingToCut",
    "Pruned",
    "Pruner",
    "Score",
    "Shape",
    "Tools",
    "rules_elementwise",
    "rules_linear",
    "rules_normalisation",
    "rules_reshaping",
    "rules_shaping",
]
