"""The methods of the study: each makes an adapted model from a base model and a budget, by its name in `METHODS`.

A budget is what uniform LoRA of one rank would cost on the same matrices, the head not counted. Every method that chooses
ranks spends it; ``"gap-printed"`` takes what P2's Algorithm 1 gives, whatever that costs. EVA and AdaLoRA move ranks
between matrices and not parameters: they cost the budget where all matrices cost the same, and elsewhere about it.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from transformers import TrainerCallback

from companion import peft_methods
from companion.allocation import allocate, permuted_ranks, proportional_ranks
from companion.decay import decay_rate, fit_decay, k_star
from companion.gradients import GradientSpectrum, gradient_spectra
from companion.kstar import paper_threshold
from companion.rank_rules import energy_rank, floor_rank, gap_rank, threshold_rank
from companion.spectral_lora import default_targets, to_lora_config
from companion.targets import linear_targets
from companion.truncation import truncate_adapter

__all__ = ["METHODS", "RANKS", "Adapted", "Problem", "adapt", "budget_constant"]

MAX_RANK = 16  # P2 Algorithm 1 asks for an r_max and gives none; twice its larger uniform rank


@dataclass
class Problem:
    """What a method may look at before training.

    Attributes
    ----------
    model : PreTrainedModel
        Base model with its head; `adapt` changes it.
    batches : iterable of batches
        Calibration examples with labels; may be read several times.
    rank : int
        Rank of uniform LoRA with the same number of parameters.
    steps : int
        Optimizer steps to come.
    targets : list of str or str, optional
        Modules to adapt, as in PEFT; its default for the model's type if None.
    scaling : float
        Factor s in ``Delta W = s B A``, the same for every rank.
    flips : int
        Sign flips of the noise floor.
    seed : int
        Draws signs, permutations and the adapters' initial values.
    parameter : float, optional
        Of the method, where it has one: tau of ``"energy"``, C' of ``"threshold"``.
    """

    model: nn.Module
    batches: Iterable
    rank: int
    steps: int
    targets: list[str] | str | None = None
    scaling: float = 2.0
    flips: int = 9
    seed: int = 0
    parameter: float | None = None

    @cached_property
    def modules(self) -> dict[str, nn.Linear]:
        """Modules to adapt, by full name."""
        return linear_targets(self.model, default_targets(self.model) if self.targets is None else self.targets)

    @cached_property
    def costs(self) -> dict[str, int]:
        """Parameters of one rank, ``out + in``, by full name."""
        return {name: module.out_features + module.in_features for name, module in self.modules.items()}

    @property
    def budget(self) -> int:
        """Adapter parameters to spend."""
        return self.rank * sum(self.costs.values())

    @property
    def largest(self) -> int:
        """Largest rank of any matrix, the same for all methods with a budget."""
        return max(MAX_RANK, 2 * self.rank)

    @cached_property
    def spectra(self) -> dict[str, GradientSpectrum]:
        """Gradient spectra at the pretrained weights; measured once, when a method asks for them."""
        return gradient_spectra(self.model, self.batches, list(self.modules), flips=self.flips, rng=self.seed)


@dataclass
class Adapted:
    """A model ready to train.

    Attributes
    ----------
    model : PreTrainedModel or PeftModel
    ranks : dict of str to int, optional
        Of plain LoRA: with the seed they say all there is to say about these adapters. None where the method does more.
    callbacks : list of TrainerCallback
        What the method does during training.
    finish : callable
        ``model -> (model, ranks)`` after training: what is left to evaluate, and the rank of every adapted matrix.
    """

    model: nn.Module
    ranks: dict[str, int] | None = None
    callbacks: list[TrainerCallback] = field(default_factory=list)
    finish: Callable[[nn.Module], tuple[nn.Module, dict[str, int]]] = field(default_factory=lambda: lambda model: (model, {}))


def adapt(method: str, problem: Problem) -> Adapted:
    """Adapters by a method, with initial values drawn from the problem's seed.

    Parameters
    ----------
    method : str
        A key of `METHODS`.
    problem : Problem
        Its model is used up.

    Returns
    -------
    Adapted

    Raises
    ------
    ValueError
        No such method; a parameter that is missing; what `companion.gradients.gradient_spectra` raises.
    """
    if method not in METHODS:
        raise ValueError(f"method: got {method!r}; accepted: {', '.join(METHODS)}")
    with torch.random.fork_rng():
        torch.manual_seed(problem.seed)
        return METHODS[method](problem)


def budget_constant(problem: Problem) -> float:
    """The largest C' of P2 eq. 7 with which the rule, on this problem, spends the budget.

    P2 gives no value. This one is fitted to one task; on others it is a constant, and what the rule spends there is its own.

    Parameters
    ----------
    problem : Problem
        Of the task to calibrate on; its ``largest`` rank caps the rule's.

    Returns
    -------
    float
        In the unit of squared entries of one example's gradient.

    Raises
    ------
    ValueError
        The gradients have fewer modes than the budget pays for.
    """
    levels = []  # (C' from which on the mode counts, what its rank costs)
    for name, s in problem.spectra.items():
        constants = s.singular_values[: problem.largest] ** 2 * s.n_examples / max(s.shape)
        levels += [(float(constant), problem.costs[name]) for constant in constants if constant > 0]
    spent = 0
    for constant, cost in sorted(levels, reverse=True):
        spent += cost
        if spent >= problem.budget:
            return constant
    raise ValueError(f"problem: got modes for {spent} parameters; accepted: as many as the budget, {problem.budget}")


# --- Ranks, from what little or much a rule looks at ------------------------------------------------------------------


def _even(problem: Problem, budget: int | None = None, largest: int | None = None) -> dict[str, int]:
    budget = problem.budget if budget is None else budget
    return proportional_ranks(dict.fromkeys(problem.costs, 1.0), problem.costs, budget, max_rank=largest)


def _in_proportion(rule: Callable[[GradientSpectrum, Problem], float]) -> Callable[[Problem], dict[str, int]]:
    """Spend the budget in proportion to what a rule says of every matrix; one rank at least."""

    def ranks(problem: Problem) -> dict[str, int]:
        weights = {name: rule(spectrum, problem) for name, spectrum in problem.spectra.items()}
        # a little for all: where the rule sees nothing, or what it prefers is full, the rest is spread evenly
        little = 1e-6 * max(weights.values()) or 1.0
        weights = {name: weight + little for name, weight in weights.items()}
        return proportional_ranks(weights, problem.costs, problem.budget, min_rank=1, max_rank=problem.largest)

    return ranks


def _threshold(spectrum: GradientSpectrum, problem: Problem) -> int:
    if problem.parameter is None:
        raise ValueError("parameter: method 'threshold' needs the constant C' of P2 eq. 7, which P2 does not give")
    return threshold_rank(spectrum.singular_values, problem.parameter, spectrum.shape, spectrum.n_examples)


def _energy_of(spectrum: GradientSpectrum, problem: Problem) -> int:
    return energy_rank(spectrum.singular_values, 0.9 if problem.parameter is None else problem.parameter)


def _k_star_printed(spectrum: GradientSpectrum, problem: Problem) -> int:
    """P1's rule as printed (eq. 4 to 6, C = 1), the noise that of an entry of one example's gradient; 0 without a decay."""
    noise = np.sqrt(np.mean(spectrum.flip_energies) / np.prod(spectrum.shape) * spectrum.n_examples)
    threshold = paper_threshold(float(noise), spectrum.shape[1], spectrum.n_examples)
    decay = decay_rate(spectrum.singular_values, threshold)  # NaN below two modes
    return min(k_star(decay, threshold), problem.largest) if decay > 1 else 0


def _k_star(spectrum: GradientSpectrum, problem: Problem) -> int:
    """P1's rule with the measured noise floor for its threshold and the fitted C; the fit has two modes at least."""
    fit = fit_decay(spectrum.singular_values, spectrum.noise_floor, min_modes=2)
    return min(fit.k_star(spectrum.noise_floor), problem.largest) if fit.decays[-1] > 1 else problem.largest


def floor_ranks(problem: Problem) -> dict[str, int]:
    """Pay for modes above the noise floor first, the strongest per parameter first; spread what is left evenly.

    Below the floor the data prefer no matrix to another.
    """
    above = {name: floor_rank(s.singular_values, s.noise_floor) for name, s in problem.spectra.items()}
    found = {name: problem.spectra[name] for name, count in above.items() if count}
    ranks = dict.fromkeys(problem.costs, 0)
    if found:
        kept = {name: s.singular_values[: min(above[name], problem.largest)] for name, s in found.items()}
        ranks |= allocate(kept, {name: problem.costs[name] for name in kept}, problem.budget)
    while free := {name: cost for name, cost in problem.costs.items() if ranks[name] < problem.largest}:
        left = problem.budget - sum(rank * problem.costs[name] for name, rank in ranks.items())
        more = proportional_ranks(dict.fromkeys(free, 1.0), free, left)
        if not any(more.values()):
            break
        ranks |= {name: min(ranks[name] + count, problem.largest) for name, count in more.items()}
    return ranks


def _global(problem: Problem) -> dict[str, int]:
    """The largest singular values of all matrices together, noise or not."""
    return dict(allocate(problem.spectra, problem.costs, problem.budget, min_rank=1, max_rank=problem.largest))


def _permuted(problem: Problem) -> dict[str, int]:
    return permuted_ranks(floor_ranks(problem), problem.costs, np.random.default_rng([problem.seed, 1]))


def _printed_gap(problem: Problem) -> dict[str, int]:
    return {name: gap_rank(s.singular_values, MAX_RANK) for name, s in problem.spectra.items()}


RANKS: dict[str, Callable[[Problem], dict[str, int]]] = {
    "uniform": _even,
    "gap-printed": _printed_gap,
    "gap": _in_proportion(lambda s, problem: gap_rank(s.singular_values, problem.largest)),
    "energy": _in_proportion(_energy_of),
    "threshold": _in_proportion(_threshold),
    "kstar-printed": _in_proportion(_k_star_printed),
    "kstar": _in_proportion(_k_star),
    "norm": _in_proportion(lambda s, problem: float(np.linalg.norm(s.singular_values))),
    "global": _global,
    "floor": floor_ranks,
    "permuted": _permuted,
}
"""Methods that are a choice of ranks and nothing else."""


# --- Adapted models ---------------------------------------------------------------------------------------------------


def lora(problem: Problem, ranks: Mapping[str, int], **options) -> PeftModel:
    """Plain LoRA of these ranks; `options` go to `peft.LoraConfig`."""
    base = LoraConfig(task_type="SEQ_CLS", **options)
    return get_peft_model(problem.model, to_lora_config(ranks, base, problem.scaling))


def _with_ranks(rule: Callable[[Problem], dict[str, int]]) -> Callable[[Problem], Adapted]:
    def adapted(problem: Problem) -> Adapted:
        ranks = rule(problem)
        return Adapted(lora(problem, ranks), ranks, finish=lambda model: (model, ranks))

    return adapted


def _rslora(problem: Problem) -> Adapted:
    """Uniform ranks with ``alpha / sqrt(r)`` and PEFT's usual alpha of 16, as people switch it on (Kalajdzievski, 2023)."""
    config = LoraConfig(
        task_type="SEQ_CLS", r=problem.rank, lora_alpha=16, use_rslora=True,
        target_modules=list(problem.modules),
    )  # fmt: skip
    ranks = dict.fromkeys(problem.modules, problem.rank)
    return Adapted(get_peft_model(problem.model, config), finish=lambda model: (model, ranks))


def _wide_then_cut(problem: Problem) -> Adapted:
    """Train twice the rank, keep the largest singular values of all updates together up to the budget."""

    def finish(model: PeftModel) -> tuple[PeftModel, dict[str, int]]:
        cut = truncate_adapter(model, budget=problem.budget)
        return cut, dict.fromkeys(problem.modules, 0) | peft_methods.adapter_ranks(cut)

    return Adapted(lora(problem, _even(problem, 2 * problem.budget)), finish=finish)


def _lora_ga(problem: Problem) -> Adapted:
    ranks = floor_ranks(problem)
    config = to_lora_config(ranks, LoraConfig(task_type="SEQ_CLS"), problem.scaling)
    return Adapted(peft_methods.lora_ga(problem.model, config, problem.batches), finish=lambda model: (model, ranks))


def _eva(problem: Problem) -> Adapted:
    config = to_lora_config(_even(problem), LoraConfig(task_type="SEQ_CLS"), problem.scaling)
    model = peft_methods.eva(problem.model, config, problem.batches)
    ranks = dict.fromkeys(problem.modules, 0) | peft_methods.adapter_ranks(model)
    return Adapted(model, finish=lambda model: (model, ranks))


def _adalora(problem: Problem) -> Adapted:
    model = peft_methods.adalora(problem.model, list(problem.modules), problem.rank, problem.steps, problem.scaling)
    callback = peft_methods.AdaLoraCallback(model)
    return Adapted(model, None, [callback], lambda model: (model, peft_methods.adalora_ranks(model)))


def _full(problem: Problem) -> Adapted:
    """Full fine-tuning."""
    for parameter in problem.model.parameters():
        parameter.requires_grad_(True)
    return Adapted(problem.model)


METHODS: dict[str, Callable[[Problem], Adapted]] = {name: _with_ranks(rule) for name, rule in RANKS.items()} | {
    "rslora": _rslora,
    "eva": _eva,
    "adalora": _adalora,
    "lora-ga": _lora_ga,
    "wide-then-cut": _wide_then_cut,
    "full": _full,
}
"""Every method by name; ``"full"``, all weights, is an anchor and has no ranks."""
