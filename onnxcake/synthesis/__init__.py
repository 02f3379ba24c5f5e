"""From a teacher and the parts of a recipe to batches of samples."""

from .augment import AUGMENTS, Augment
from .loop import Maker
from .losses import LOSSES
from .memory import Memory
from .policies import LABELS
from .replay import MEMORIES
from .schedules import SCHEDULES
from .sources import SOURCES
from .step import Need, Tick, Weighted, silent
from .synthesis import Synthesis
from .update import UPDATES
from .workers import synthesize

__all__ = [
    "AUGMENTS",
    "LABELS",
    "LOSSES",
    "MEMORIES",
    "SCHEDULES",
    "SOURCES",
    "UPDATES",
    "Augment",
    "Maker",
    "Memory",
    "Need",
    "Synthesis",
    "Tick",
    "Weighted",
    "silent",
    "synthesize",
]
