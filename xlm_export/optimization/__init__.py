"""From the portable graph to a provider's own: one rewrite rule a file, and the table of what each target gets."""

from xlm_export.optimization.optimize import Optimization, optimize
from xlm_export.optimization.passes import PASSES, TARGETS

__all__ = ["PASSES", "TARGETS", "Optimization", "optimize"]
