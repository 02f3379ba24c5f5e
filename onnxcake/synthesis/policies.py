"""Label policies by name."""

from .labels import Balanced, Independent, RowPermutation
from .soft_labels import Dirichlet, Features
from .step import Parts

LABELS: Parts = {
    "balanced": Balanced,
    "dirichlet": Dirichlet,
    "features": Features,
    "independent": Independent,
    "row_permutation": RowPermutation,
}
