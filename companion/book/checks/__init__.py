"""Checks of the exercises, one module per chapter. They need nothing but the package and NumPy."""

from companion.book.checks.a_rank_for_a_real_model import rank_leak, rank_level, rank_rule
from companion.book.checks.marchenko_pastur import (
    mp_edges,
    mp_false_alarms,
    mp_flatten,
    mp_nonzero_median,
    mp_third_moment,
)

__all__ = ["rank_leak", "rank_level", "rank_rule", "mp_edges", "mp_false_alarms", "mp_flatten", "mp_nonzero_median", "mp_third_moment"]
