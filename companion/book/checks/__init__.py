"""Checks of the exercises, one module per chapter. They need nothing but the package and NumPy."""

from companion.book.checks.a_rank_for_a_real_model import rank_leak, rank_level, rank_rule
from companion.book.checks.auditing_the_tables import audit_error, audit_exact, audit_grim, audit_one_run, audit_witness
from companion.book.checks.balance import balance_factors, balance_half_life, balance_rates, balance_step
from companion.book.checks.exact_dynamics import dynamics_order, dynamics_rise, dynamics_seeds, dynamics_unlearned
from companion.book.checks.first_gradient import gradient_cliff, gradient_examples, gradient_level, gradient_refit
from companion.book.checks.k_star_done_right import kdone_df, kdone_examples, kdone_z
from companion.book.checks.k_star_printed import kstar_decay, kstar_noise, kstar_price, kstar_shuffle
from companion.book.checks.marchenko_pastur import (
    mp_edges,
    mp_false_alarms,
    mp_flatten,
    mp_nonzero_median,
    mp_third_moment,
)
from companion.book.checks.real_layers import layers_linear_time, layers_onset, layers_r_squared, layers_sorted
from companion.book.checks.spectral_lora_on_glue import glue_exchange, glue_greedy, glue_rule, glue_seeds
from companion.book.checks.too_much_rank import surplus_decay, surplus_muon, surplus_rate, surplus_seeded
from companion.book.checks.tucker import tucker_circuit, tucker_export, tucker_power, tucker_saving
from companion.book.checks.tucker_lora_on_cifar_100 import vision_frontier, vision_heads, vision_match

__all__ = [
    "glue_exchange", "glue_greedy", "glue_rule", "glue_seeds",
    "audit_error", "audit_exact", "audit_grim", "audit_one_run", "audit_witness",
    "balance_factors", "balance_half_life", "balance_rates", "balance_step",
    "dynamics_order", "dynamics_rise", "dynamics_seeds", "dynamics_unlearned",
    "gradient_cliff", "gradient_examples", "gradient_level", "gradient_refit",
    "kdone_df", "kdone_examples", "kdone_z",
    "kstar_decay", "kstar_noise", "kstar_price", "kstar_shuffle",
    "layers_linear_time", "layers_onset", "layers_r_squared", "layers_sorted",
    "mp_edges", "mp_false_alarms", "mp_flatten", "mp_nonzero_median", "mp_third_moment",
    "rank_leak", "rank_level", "rank_rule",
    "surplus_decay", "surplus_muon", "surplus_rate", "surplus_seeded",
    "tucker_circuit", "tucker_export", "tucker_power", "tucker_saving",
    "vision_frontier", "vision_heads", "vision_match",
]  # fmt: skip
