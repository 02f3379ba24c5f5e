"""List the label policies by name."""

from ..step import Parts
from .hard import Balanced, Independent, RowPermutation
from .soft import Dirichlet, Features

LABELS: Parts = {
    "balanced": Balanced,
    "dirichlet": Dirichlet,
    "features": Features,
    "independent": Independent,
    "row_permutation": RowPermutation,
}
