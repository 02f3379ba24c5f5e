"""Losses on the samples: one file, one equation. A recipe names them by the keys of `LOSSES`."""

from ..step import Parts
from .classification import Classification
from .contrastive import Contrastive
from .total_variation import TotalVariation

LOSSES: Parts = {
    "classification": Classification,
    "contrastive": Contrastive,
    "total_variation": TotalVariation,
}
