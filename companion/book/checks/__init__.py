"""Checks of the exercises, one module per chapter. They need nothing but the package and NumPy."""

from companion.book.checks.a_rank_for_a_real_model import rank_leak, rank_level, rank_rule
from companion.book.checks.auditing_the_tables import audit_error, audit_exact, audit_grim, audit_one_run, audit_witness
from companion.book.checks.marchenko_pastur import (
    mp_edges,
    mp_false_alarms,
    mp_flatten,
    mp_nonzero_median,
    mp_third_moment,
)

__all__ = [
    "audit_error", "audit_exact", "audit_grim", "audit_one_run", "audit_witness",
    "mp_edges", "mp_false_alarms", "mp_flatten", "mp_nonzero_median", "mp_third_moment",
    "rank_leak", "rank_level", "rank_rule",
]  # fmt: skip
