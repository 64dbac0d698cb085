"""Checks of the exercises, one module per chapter. They need nothing but the package and NumPy."""

from companion.book.checks.a_rank_for_a_real_model import rank_leak, rank_level, rank_rule
from companion.book.checks.auditing_the_tables import audit_error, audit_exact, audit_grim, audit_one_run, audit_witness
from companion.book.checks.k_star_printed import kstar_decay, kstar_noise, kstar_price, kstar_shuffle
from companion.book.checks.marchenko_pastur import (
    mp_edges,
    mp_false_alarms,
    mp_flatten,
    mp_nonzero_median,
    mp_third_moment,
)

__all__ = [
    "audit_error", "audit_exact", "audit_grim", "audit_one_run", "audit_witness",
    "kstar_decay", "kstar_noise", "kstar_price", "kstar_shuffle",
    "mp_edges", "mp_false_alarms", "mp_flatten", "mp_nonzero_median", "mp_third_moment",
    "rank_leak", "rank_level", "rank_rule",
]  # fmt: skip
