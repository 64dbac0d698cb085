"""Companion package of *The Spectral Theory of LoRA*.

The mathematics (`marchenko_pastur`, `rank_rules`, `tucker`, `statistics`) needs no torch; what touches a model
(`gradients`, `spectral_lora`, `finetune`) is imported when first used, so that `import companion` never loads torch.
"""

import importlib

__version__ = "0.1.0"

_SUBMODULES = {
    "advice", "data", "finetune", "flow_numerics", "glue_run", "glue_study", "gradient_flow", "gradients", "kstar",
    "kstar_tables", "leaderboard", "marchenko_pastur", "matched_adapters", "methods", "metrics", "oracle", "planted_benchmark",
    "projected_flow", "rank_rules", "recommendation", "reduced_rank", "scalar_flow", "scoring", "spectral_lora",
    "stability", "statistics", "students", "study", "study_tables", "tanh_law", "targets", "truncation",
    "truth_tables", "tucker", "tucker_export", "tucker_flow", "tucker_law", "tucker_lora", "tucker_ranks",
    "tucker_recovery", "tuning", "vision_run", "vision_study",
}  # fmt: skip

__all__ = sorted(_SUBMODULES)


def __getattr__(name: str):
    if name in _SUBMODULES:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_SUBMODULES])
