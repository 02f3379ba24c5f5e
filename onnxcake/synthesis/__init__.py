"""From a teacher and the parts of a recipe to batches of samples."""

from .labels import LABELS
from .loop import Synthesis, make_batch, synthesize
from .losses import LOSSES
from .schedules import SCHEDULES
from .sources import SOURCES
from .step import Weighted
from .update import UPDATES

__all__ = [
    "LABELS",
    "LOSSES",
    "SCHEDULES",
    "SOURCES",
    "UPDATES",
    "Synthesis",
    "Weighted",
    "make_batch",
    "synthesize",
]
