"""Adapters of several kinds on the same projections, none with more parameters than uniform LoRA of a given rank.

P2 compares Tucker-LoRA with matrix LoRA "with rank chosen to match the Tucker-LoRA parameter budget" (appendix G.4). Here
the budget comes first, and every kind takes the largest adapter that it pays for.
"""

import re
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from peft import LoHaConfig, LoKrConfig, LoraConfig, PeftConfig, PeftModel, get_peft_model
from torch import nn

from companion.allocation import proportional_ranks
from companion.gradients import MeanGradient, mean_gradients
from companion.spectral_lora import to_lora_config
from companion.tucker_heads import attention_projections
from companion.tucker_lora import TuckerLoraConfig
from companion.tucker_ranks import gradient_mode_spectra, ranks_within, tucker_rank_pattern
from companion.tucker_sharing import factor_sizes

__all__ = ["KINDS", "Place", "trained_parameters", "with_adapter"]

LOKR_FACTORS = (-1, 2, 4, 8, 16, 32)  # -1: as near to the square root of each side as possible
PRINTED_MAX_RANK = 8  # P2 gives no r_max for its gap criterion; the larger uniform rank of its appendix G.2


@dataclass
class Place:
    """What an adapter is made for.

    Attributes
    ----------
    model : PreTrainedModel
        Base model with its head; `with_adapter` changes it.
    budget : int, optional
        Parameters to spend, the head not counted; None where `ranks` are given or the ranks say it themselves.
    batches : iterable of batches
        Calibration examples with labels, for the kinds whose ranks come from the first gradient.
    ranks : (int, int, int), optional
        Of Tucker-LoRA, the same for every projection, instead of those that the budget pays for.
    scaling : float
        Factor on ``B A``, LoHa's and LoKr's products, the same for every rank.
    alpha : float
        Factor on Tucker-LoRA's update, as in `companion.tucker_lora.TuckerLoraConfig`.
    seed : int
        Draws the adapters' initial values.
    """

    model: nn.Module
    budget: int | None = None
    batches: Iterable = ()
    ranks: tuple[int, int, int] | None = None
    scaling: float = 2.0
    alpha: float = 4.0
    seed: int = 0

    @cached_property
    def modules(self) -> dict[str, nn.Linear]:
        """Projections to adapt, by full name, all that go into heads or come out of them."""
        return attention_projections(self.model)

    @cached_property
    def costs(self) -> dict[str, int]:
        """Parameters of one rank of LoRA, ``out + in``, by full name."""
        return {name: module.out_features + module.in_features for name, module in self.modules.items()}

    @cached_property
    def gradients(self) -> dict[str, MeanGradient]:
        """First gradient of every projection; measured once, when a kind asks for it."""
        return mean_gradients(self.model, self.batches, list(self.modules), flips=0)


def with_adapter(kind: str, place: Place) -> tuple[PeftModel, dict[str, object]]:
    """The model with an adapter of a kind, its head trained too.

    Parameters
    ----------
    kind : str
        A key of `KINDS`.
    place : Place
        Its model is used up.

    Returns
    -------
    model : peft.PeftModel
    ranks : dict
        What was chosen: ranks by full name (``"lora"``, ``"lora-printed"``, ``"tucker-printed"``), or ``r`` and, for LoKr,
        ``decompose_factor``, the same for all.

    Raises
    ------
    ValueError
        No such kind, no budget where one is needed, or one that does not pay for the smallest adapter of this kind.
    """
    if kind not in KINDS:
        raise ValueError(f"kind: got {kind!r}; accepted: {', '.join(KINDS)}")
    config, ranks = KINDS[kind](place)
    config.modules_to_save = ["classifier"]
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)  # PEFT 0.21
        torch.manual_seed(place.seed)
        return get_peft_model(place.model, config), ranks


def trained_parameters(model: nn.Module) -> int:
    """Number of parameters in training that are not part of a head kept in full; shared ones count once.

    Parameters
    ----------
    model : nn.Module

    Returns
    -------
    int

    Examples
    --------
    >>> trained_parameters(get_peft_model(nn.Sequential(nn.Linear(6, 4)), LoraConfig(r=2, target_modules=["0"])))
    20
    """
    return sum(p.numel() for name, p in model.named_parameters() if p.requires_grad and "modules_to_save" not in name)


# --- Kinds ------------------------------------------------------------------------------------------------------------


def _lora(place: Place, budget: int | None = None) -> tuple[PeftConfig, dict]:
    """Ranks as even as whole numbers allow."""
    even = proportional_ranks(dict.fromkeys(place.costs, 1.0), place.costs, _budget(place) if budget is None else budget)
    if not any(even.values()):
        raise ValueError(f"budget: got {place.budget}; accepted for LoRA: {min(place.costs.values())} or more")
    return to_lora_config(even, LoraConfig(), place.scaling), even


def _tucker(share: str) -> Callable[[Place], tuple[PeftConfig, dict]]:
    """The ranks that keep most of the first gradient, of all that the budget pays for; the same for every projection."""

    def made(place: Place) -> tuple[PeftConfig, dict]:
        ranks = place.ranks
        if ranks is None:
            sizes = factor_sizes(place.model, place.modules, share)
            spectra = gradient_mode_spectra(place.gradients, place.model)
            ranks = ranks_within(spectra, _budget(place), sizes, len(place.modules))
        return _tucker_config(place, r=tuple(ranks), share=share), {"r": list(ranks)}

    return made


def _printed_ranks(place: Place) -> dict[str, tuple[int, int, int]]:
    """Ranks "set by the spectral gap criterion independently per layer and per weight type" (P2 appendix G.4)."""
    limits = (PRINTED_MAX_RANK,) * 3
    return tucker_rank_pattern(place.gradients, place.model, rule="gap", max_ranks=limits)


def _tucker_printed(place: Place) -> tuple[PeftConfig, dict]:
    pattern = _printed_ranks(place)
    return _tucker_config(place, rank_pattern=pattern), {_unescaped(name): list(r) for name, r in pattern.items()}


def _lora_printed(place: Place) -> tuple[PeftConfig, dict]:
    """LoRA with as many parameters as P2's Tucker ranks have."""
    budget = 0
    for name, (r1, r2, r3) in _printed_ranks(place).items():
        d1, d2, d3 = factor_sizes(place.model, [_unescaped(name)])
        budget += r1 * r2 * r3 + r1 * d1 + r2 * d2 + r3 * d3
    return _lora(place, budget)


def _tucker_config(place: Place, **options) -> TuckerLoraConfig:
    return TuckerLoraConfig(target_modules=_exactly(place.modules), alpha=place.alpha, **options)


def _loha(place: Place) -> tuple[PeftConfig, dict]:
    """``(B1 A1) * (B2 A2)``, elementwise: two pairs of factors for every rank."""
    return _largest(place, [(LoHaConfig, {"r": r}) for r in range(1, 1 + max(1, _budget(place) // sum(place.costs.values())))])


def _lokr(place: Place) -> tuple[PeftConfig, dict]:
    """A Kronecker product of a small full matrix with a full or low-rank one, of the factors that spend most."""
    rank = max(1, _budget(place) // len(place.modules) // 2)
    options = [{"r": r, "decompose_factor": f} for f in LOKR_FACTORS for r in range(1, min(rank, 64) + 1)]
    return _largest(place, [(LoKrConfig, option) for option in options])


def _largest(place: Place, candidates: list[tuple[type[PeftConfig], dict]]) -> tuple[PeftConfig, dict]:
    """The configuration with most parameters within the budget, the first of equals; PEFT itself does the counting."""
    sizes = [(_counted(place, kind, options), kind, options) for kind, options in candidates]
    paid = [(count, kind, options) for count, kind, options in sizes if count <= place.budget]
    if not paid:
        smallest, kind, _ = min(sizes, key=lambda size: size[0])
        name = kind.__name__.removesuffix("Config")
        raise ValueError(f"budget: got {place.budget}; accepted for {name}: {smallest} or more")
    _, kind, options = max(paid, key=lambda size: size[0])
    return _peft_config(place, kind, options), options


def _counted(place: Place, kind: type[PeftConfig], options: dict) -> int:
    """Parameters of an adapter, made on matrices without storage, one of each shape."""
    shapes: dict[tuple[int, int], int] = {}
    for module in place.modules.values():
        shape = (module.in_features, module.out_features)
        shapes[shape] = shapes.get(shape, 0) + 1
    total = 0
    for (width, height), times in shapes.items():
        with torch.device("meta"):
            adapted = get_peft_model(nn.Sequential(nn.Linear(width, height)), kind(target_modules=["0"], **options))
        total += times * trained_parameters(adapted)
    return total


def _peft_config(place: Place, kind: type[PeftConfig], options: dict) -> PeftConfig:
    return kind(target_modules=list(place.modules), alpha=place.scaling * options["r"], **options)


def _exactly(names: Mapping[str, object]) -> str:
    """A regular expression for these full names."""
    return "|".join(map(re.escape, names))


def _unescaped(name: str) -> str:
    return name.replace("\\", "")


def _budget(place: Place) -> int:
    if place.budget is None:
        raise ValueError("budget: got None; accepted: a number of parameters (or ranks, for Tucker-LoRA)")
    return place.budget


KINDS: dict[str, Callable[[Place], tuple[PeftConfig, dict]]] = {
    "lora": _lora,
    "tucker": _tucker("none"),
    "tucker-qkv": _tucker("qkv"),
    "tucker-layers": _tucker("layers"),
    "loha": _loha,
    "lokr": _lokr,
    "tucker-printed": _tucker_printed,
    "lora-printed": _lora_printed,
}
"""By name. LoRA; Tucker-LoRA, alone or with factors shared over the projections of a block or over the layers; LoHa and LoKr
of PEFT; Tucker-LoRA with the ranks of P2's appendix G.4 and LoRA with as many parameters as that."""
