"""Cut a student out of the teacher's own graph, with the teacher's own weights."""

# Each file of rules registers its operators.
from . import rules_elementwise as rules_elementwise
from . import rules_linear as rules_linear
from . import rules_normalisation as rules_normalisation
from . import rules_reshaping as rules_reshaping
from . import rules_shaping as rules_shaping
