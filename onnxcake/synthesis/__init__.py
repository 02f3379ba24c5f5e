"""From a teacher and the parts of a recipe to batches of samples."""

from .augment import AUGMENTS, Augment
from .labels import LABELS
from .losses import LOSSES
from .memory import Memory
from .replay import MEMORIES
from .schedules import SCHEDULES
from .sources import SOURCES
from .spec import Synthesis
from .step import Need, Tick, Weighted, silent
from .synthesizer import Maker
from .updates import UPDATES

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
]
