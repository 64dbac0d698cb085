"""What a budget of parameters pays for, and what it keeps of a gradient: LoRA against Tucker-LoRA on a vision transformer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import product

import numpy as np
import pandas as pd

from companion import tucker
from companion.data import load_model
from companion.matched_adapters import KINDS, Place, trained_parameters, with_adapter
from companion.tucker_heads import head_shape

__all__ = [
    "adapter_sizes", "gradient_tensors", "kept_by_lora", "kept_by_tucker", "rows_shuffled", "vit_parameters",
]  # fmt: skip


def vit_parameters(ranks: Sequence[int], dims: Sequence[int] = (12, 64, 768), matrices: int = 48) -> int:
    """Parameters of Tucker-LoRA on the query, key, value and output matrices of ViT-B/16, all with these ranks."""
    return matrices * tucker.parameter_counts(dims, ranks).tucker


def gradient_tensors(gradients: Mapping, model) -> dict[str, np.ndarray]:
    """First gradients as tensors (heads, head_dim, d_model), in float64."""
    return {name: head_shape(model, name).as_tensor(g.mean).double().cpu().numpy() for name, g in gradients.items()}


def rows_shuffled(tensors: Mapping[str, np.ndarray], rng: np.random.Generator) -> dict[str, np.ndarray]:
    """The same matrices with their rows dealt anew to heads and places: the same singular values, other tensors."""
    return {name: rng.permutation(t.reshape(-1, t.shape[2])).reshape(t.shape) for name, t in tensors.items()}


def kept_by_lora(tensors: Mapping[str, np.ndarray], rank: int) -> float:
    """Share of the energy that the best matrices of this rank keep, mean over the tensors."""
    energies = (np.linalg.svd(t.reshape(-1, t.shape[2]), compute_uv=False) ** 2 for t in tensors.values())
    return float(np.mean([energy[:rank].sum() / energy.sum() for energy in energies]))


def kept_by_tucker(tensors: Mapping[str, np.ndarray], ranks: Sequence[int], sweeps: int = 5) -> float:
    """Share of the energy that a Tucker decomposition keeps (HOSVD and some sweeps of HOOI), mean over the tensors."""
    cores = ((tucker.hosvd(t, ranks, sweeps).core, t) for t in tensors.values())
    return float(np.mean([np.sum(core**2) / np.sum(t**2) for core, t in cores]))


def adapter_sizes(gradients: Mapping, budgets: Iterable[int], classes: int = 10) -> pd.DataFrame:
    """What PEFT counts for every kind of adapter that spends a budget, on the small transformer, by budget.

    NaN where the budget pays for none of its kind, and for shared factors with a PEFT that cannot share.
    """
    spending = [kind for kind in KINDS if not kind.endswith("-printed")]
    table = pd.DataFrame(index=spending, columns=list(budgets), dtype=float)
    for kind, budget in product(table.index, table.columns):
        place = Place(load_model("vit-cifar50", classes), int(budget))
        place.gradients = gradients
        try:
            table.loc[kind, budget] = trained_parameters(with_adapter(kind, place)[0])
        except ValueError as error:
            if not str(error).startswith(("budget:", "share:")):
                raise
    return table
