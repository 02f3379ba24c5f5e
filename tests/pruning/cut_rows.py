"""All rows of the table of operators' rules."""

from __future__ import annotations

from cut_rows_layers import CONVOLUTIONS, PRODUCTS
from cut_rows_norms import NORMALISATIONS
from cut_rows_places import PLACES, UNKNOWN
from cut_rows_shapes import SHAPES
from cut_rows_spatial import REDUCTIONS, SPATIAL

ROWS = (*CONVOLUTIONS, *PRODUCTS, *NORMALISATIONS, *SHAPES, *SPATIAL, *REDUCTIONS, *PLACES, *UNKNOWN)
