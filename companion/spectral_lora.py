"""From gradient spectra to a PEFT configuration: SpectralLoRA (P2 Algorithm 1) with any rank rule."""

import copy
import re
import warnings
from collections.abc import Callable, Iterable, Mapping
from numbers import Real

import numpy as np
from peft import LoraConfig
from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as DEFAULT_TARGETS
from torch import nn

from companion.advice import assess
from companion.batches import LossFn
from companion.gradients import GradientSpectrum, Sketch, gradient_spectra
from companion.rank_rules import Spectrum, make_rule
from companion.stability import artefacts

__all__ = ["default_targets", "spectral_lora_config", "spectral_ranks", "to_lora_config"]

Rule = str | Callable[[Spectrum], int]


def spectral_ranks(
    spectra: Mapping[str, GradientSpectrum],
    rule: Rule = "floor",
    max_rank: int | None = None,
    min_rank: int = 0,
) -> dict[str, int]:
    """Rank of every matrix under one rule (P2 Algorithm 1, lines 2-8).

    Parameters
    ----------
    spectra : mapping of str to GradientSpectrum
        By full module name, from `companion.gradients.gradient_spectra`.
    rule : str or callable
        A name of `companion.rank_rules.RULES`, with its parameter after a colon where it has one (``"energy:0.9"``), or
        any callable ``spectrum -> int``.
    max_rank, min_rank : int
        Ranks are clipped to this range, and to the shorter side of the matrix.

    Returns
    -------
    dict of str to int
        By full module name.

    Raises
    ------
    ValueError
        No spectrum, an unknown rule, a rule that answers no rank, or limits that are not integers in order.

    Examples
    --------
    >>> values, floors = np.array([5, 4, 1, 0.5]), np.array([0.8, 0.9])
    >>> spectra = {"query": GradientSpectrum(values, floors, (4, 6), n_examples=64)}
    >>> spectral_ranks(spectra), spectral_ranks(spectra, "gap", max_rank=1)
    ({'query': 3}, {'query': 1})
    """
    if not spectra:
        raise ValueError("spectra: got an empty mapping; accepted: at least one matrix")
    _check_rank("min_rank", min_rank, 0)
    if max_rank is not None:
        _check_rank("max_rank", max_rank, max(min_rank, 1))
    rank_of = make_rule(rule)
    ranks = {}
    for name, spectrum in spectra.items():
        upper = min(spectrum.shape) if max_rank is None else min(max_rank, *spectrum.shape)
        ranks[name] = int(np.clip(rank_of(spectrum), min(min_rank, upper), upper))
    return ranks


def to_lora_config(ranks: Mapping[str, int], base: LoraConfig, scaling: float = 2.0) -> LoraConfig:
    """A copy of `base` that adapts exactly the named modules with exactly these ranks.

    Parameters
    ----------
    ranks : mapping of str to int
        By full module name, without PEFT's ``base_model.model.`` prefix. Modules of rank 0 are dropped.
    base : LoraConfig
        Everything but targets, ranks and alphas is taken from here (task type, dropout, initialisation, …).
    scaling : float
        Factor s in ``Delta W = s B A``, the same for every rank: ``alpha = s r``, or ``s sqrt(r)`` with ``use_rslora``.
        With `rank_pattern` alone PEFT would scale a module by ``lora_alpha / r``: with alpha 16, by 16 at r = 1 and by 2
        at r = 8.

    Returns
    -------
    LoraConfig
        With `target_modules`, `rank_pattern` and `alpha_pattern` by full name (escaped, since PEFT reads the keys of
        patterns as regular expressions).

    Raises
    ------
    ValueError
        No rank above 0, a rank that is not an integer >= 0, a scaling that is not positive, or `base` restricts layers by
        number.

    Examples
    --------
    >>> config = to_lora_config({"query": 3, "value": 0}, LoraConfig(), 2.0)
    >>> config.target_modules, config.rank_pattern, config.alpha_pattern
    (['query'], {'query': 3}, {'query': 6.0})
    """
    if not (isinstance(scaling, Real) and np.isfinite(scaling) and scaling > 0):
        raise ValueError(f"scaling: got {scaling!r}; accepted: a finite number > 0")
    for field in ("layers_to_transform", "exclude_modules", "target_parameters"):
        if getattr(base, field, None) is not None:
            raise ValueError(f"base: {field} is not accepted; restrict target_modules instead")
    for name, rank in ranks.items():
        _check_rank(f"ranks[{name!r}]", rank, 0)
    # PEFT takes the first key that matches the end of a name, so a name that ends in another one comes first
    adapted = sorted((name for name, rank in ranks.items() if rank > 0), key=len, reverse=True)
    if not adapted:
        raise ValueError("ranks: every rank is 0, so there is nothing to adapt; use min_rank=1 or a uniform rank")
    config = copy.deepcopy(base)
    config.target_modules = _exact_targets(adapted, ranks)
    config.rank_pattern = {re.escape(name): int(ranks[name]) for name in adapted}
    config.alpha_pattern = {
        re.escape(name): scaling * (np.sqrt(ranks[name]).item() if base.use_rslora else int(ranks[name])) for name in adapted
    }
    return config


def spectral_lora_config(
    model: nn.Module,
    dataloader: Iterable,
    base: LoraConfig,
    rule: Rule = "floor",
    max_rank: int | None = None,
    min_rank: int = 0,
    scaling: float = 2.0,
    loss_fn: LossFn | None = None,
    flips: int = 9,
    rng: np.random.Generator | int = 0,
    sketch: Sketch | int | None = None,
) -> LoraConfig:
    """Read a rank for every target module off the gradient at the pretrained weights (P2 Algorithm 1).

    Parameters
    ----------
    model : nn.Module
        The base model, before `peft.get_peft_model`; left exactly as found. Its head should be warmed up first
        (`companion.finetune.warm_up_head`): a fresh head shows the direction of its own random read-out.
    dataloader : iterable of batches
        Read once; see `companion.gradients.mean_gradients`.
    base : LoraConfig
        ``base.target_modules`` says which matrices are looked at; None means PEFT's default for the model's type.
    rule, max_rank, min_rank
        As in `spectral_ranks`; ``min_rank=1`` adapts every target.
    scaling
        As in `to_lora_config`.
    loss_fn, flips, rng, sketch
        As in `companion.gradients.gradient_spectra`.

    Returns
    -------
    LoraConfig
        A copy of `base` with `target_modules`, `rank_pattern` and `alpha_pattern`; ready for `peft.get_peft_model`.

    Raises
    ------
    TypeError
        As in `companion.gradients.mean_gradients`.
    ValueError
        As in `companion.gradients.mean_gradients` and `to_lora_config`. When the rule leaves no module, the message holds the advice of
        `companion.advice.assess`: how many examples the first modes would need, and what to do instead.

    Warns
    -----
    UserWarning
        When the spectra as a whole cannot be told from noise: the ranks are then read off noise. When a rank is the number
        of examples or the numerical rank of the gradient.

    Examples
    --------
    With `model` and `dataloader` from `companion.data`::

        base = LoraConfig(task_type="SEQ_CLS")
        config = spectral_lora_config(model, dataloader, base, min_rank=1)
        model = peft.get_peft_model(model, config)
    """
    targets = default_targets(model) if base.target_modules is None else base.target_modules
    spectra = gradient_spectra(model, dataloader, targets, loss_fn, flips, rng, sketch)
    ranks = spectral_ranks(spectra, rule, max_rank, min_rank)
    assessment = assess(spectra) if flips else None
    if not any(ranks.values()):
        raise ValueError(f"the rule {rule!r} gives rank 0 to every matrix. {assessment or ''}".rstrip())
    if assessment is not None and not assessment.resolved:
        warnings.warn(str(assessment), stacklevel=2)
    if suspicious := artefacts(ranks, spectra):
        numbers = "; ".join(f"{name}: {number}" for name, number in suspicious.items())
        warnings.warn(f"ranks that may be numbers of the measurement and not of the task: {numbers}", stacklevel=2)
    every_module = dict.fromkeys((name for name, _ in model.named_modules() if name), 0)
    return to_lora_config(every_module | ranks, base, scaling)  # the others at rank 0, so that no name ending catches them


def default_targets(model: nn.Module) -> list[str]:
    """PEFT's default target modules for the model's type.

    Parameters
    ----------
    model : nn.Module
        A transformers model: its ``config.model_type`` is looked up.

    Returns
    -------
    list of str
        Name endings, such as query and value for BERT.

    Raises
    ------
    ValueError
        PEFT has none for this type.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> config = SimpleNamespace(model_type="bert")
    >>> default_targets(SimpleNamespace(config=config))
    ['query', 'value']
    """
    kind = getattr(getattr(model, "config", None), "model_type", None)
    if kind not in DEFAULT_TARGETS:
        raise ValueError(f"target_modules: PEFT has no default for model type {kind!r}; name the modules")
    return list(DEFAULT_TARGETS[kind])


def _exact_targets(adapted: list[str], ranks: Mapping[str, int]) -> list[str] | str:
    """Full names; as one regular expression where a dropped module's name ends in an adapted one (PEFT matches endings)."""
    dropped = [name for name in ranks if ranks[name] == 0]
    if any(name.endswith(f".{other}") for name in dropped for other in adapted):
        return "|".join(re.escape(name) for name in adapted)
    return adapted


def _check_rank(name: str, rank: int, least: int) -> None:
    if isinstance(rank, bool) or not isinstance(rank, (int, np.integer)) or rank < least:
        raise ValueError(f"{name}: got {rank!r}; accepted: an integer >= {least}")
