"""Ranks of Tucker-LoRA along each mode, from the first gradient and its sign-flip floors (P2 Algorithm 1 by modes)."""

import re
from collections.abc import Mapping, Sequence
from numbers import Integral

import numpy as np
import torch
from torch import Tensor, nn

from companion.gradients import GradientSpectrum, MeanGradient, spectrum_of
from companion.rank_rules import make_rule
from companion.spectral_lora import Rule
from companion.tucker_heads import NumHeads, head_shape

__all__ = ["gradient_mode_spectra", "ranks_within", "tucker_rank_pattern"]


def tucker_rank_pattern(
    gradients: Mapping[str, MeanGradient],
    model: nn.Module,
    rule: Rule = "floor",
    max_ranks: tuple[int, int, int] | None = None,
    min_ranks: tuple[int, int, int] = (1, 1, 1),
    num_heads: NumHeads = "auto",
) -> dict[str, tuple[int, int, int]]:
    """Ranks along heads, head_dim and d_model for every matrix, ready for ``TuckerLoraConfig(rank_pattern=...)``.

    Parameters
    ----------
    gradients : mapping of str to MeanGradient
        By full module name, from `companion.gradients.mean_gradients` with some flips.
    model : nn.Module
        The base model, which tells how many heads each module has.
    rule : str or callable
        As in `companion.spectral_lora.spectral_ranks`, applied to the spectrum of each unfolding.
    max_ranks, min_ranks : (int, int, int)
        Ranks are clipped to this range and to the dimensions. No rank stays above the product of the other two: the
        unfolding could not have it.
    num_heads : "auto", int or dict of str to int
        As in `companion.tucker_lora.TuckerLoraConfig`.

    Returns
    -------
    dict of str to (int, int, int)
        Keys are full names, escaped, since PEFT reads them as regular expressions; ``target_modules="|".join(pattern)``
        adapts exactly these modules.

    Raises
    ------
    TypeError
        A module that is no ordinary linear layer.
    ValueError
        No gradient, an unknown rule, a module without heads, limits that are not integers in order, or a floor rule
        with gradients that have no flips.

    Notes
    -----
    The floor of mode k is the largest singular value of the mode-k unfoldings of the sign-flipped gradients: what noise
    of this shape reaches along this mode. P2 takes the largest gap of the gradient's singular values (``rule="gap"``).

    Examples
    --------
    With `model` and `batches` from `companion.data`::

        gradients = mean_gradients(model, batches, ["query", "value"])
        pattern = tucker_rank_pattern(gradients, model, max_ranks=(4, 8, 8))
        config = TuckerLoraConfig(target_modules="|".join(pattern), rank_pattern=pattern)
    """
    if not gradients:
        raise ValueError("gradients: got an empty mapping; accepted: at least one matrix")
    lows, highs = _limits(min_ranks, max_ranks)
    rank_of, pattern = make_rule(rule), {}
    spectra = gradient_mode_spectra(gradients, model, num_heads)
    # the first key that fits the end of a name is taken, so a name that ends in another one comes first
    for name in sorted(spectra, key=len, reverse=True):
        ranks = []
        for spectrum, low, high in zip(spectra[name], lows, highs, strict=True):
            size = spectrum.shape[0]
            ranks.append(int(np.clip(rank_of(spectrum), min(low, size), min(high or size, size))))
        pattern[re.escape(name)] = _possible(ranks)
    return pattern


def _limits(low: Sequence[int], high: Sequence[int] | None) -> tuple[tuple[int, ...], tuple[int | None, ...]]:
    """Least and largest ranks along the modes, None where there is no largest."""
    lows, highs = tuple(low), (None,) * 3 if high is None else tuple(high)
    numbers = [*lows, *(n for n in highs if n is not None)]
    right = all(isinstance(n, Integral) and not isinstance(n, bool) and n >= 1 for n in numbers)
    right = right and len(lows) == len(highs) == 3
    if not right or any(most is not None and most < least for least, most in zip(lows, highs, strict=True)):
        raise ValueError(f"min_ranks, max_ranks: got {low} and {high}; accepted: three integers each, 1 <= min <= max")
    return lows, highs


def ranks_within(
    spectra: Mapping[str, Sequence[GradientSpectrum]], budget: int, sizes: Sequence[int], cores: int
) -> tuple[int, int, int]:
    """The ranks, the same for every matrix, that keep most of the gradients of all that a budget pays for.

    Parameters
    ----------
    spectra : mapping of str to three GradientSpectrum
        From `gradient_mode_spectra`, of matrices with the same dimensions.
    budget : int
        Parameters in all.
    sizes : (int, int, int)
        Parameters of one rank along each mode, over all matrices: ``heads``, ``head_dim`` and ``d_model`` times their
        number, less where factors are shared.
    cores : int
        Number of cores of ``r1 r2 r3`` entries.

    Returns
    -------
    (int, int, int)
        Along heads, head_dim and d_model; none above the product of the other two. Of equals the one with fewer parameters.

    Raises
    ------
    ValueError
        No matrix, dimensions that differ, or a budget below the cost of ranks (1, 1, 1).

    Notes
    -----
    What the truncated higher-order SVD of a tensor loses, squared, is at most the sum over modes of the squares of the
    singular values it drops (De Lathauwer, De Moor and Vandewalle, 2000). The ranks are those with the least mean of
    this bound over the matrices, each in units of its own ``||G||_F^2``.

    Examples
    --------
    With `model` and `gradients` from `companion.gradients.mean_gradients` on the 12 projections of a BERT of 4 layers, 4
    heads of 8::

        ranks_within(gradient_mode_spectra(gradients, model), budget=4_000, sizes=(12 * 4, 12 * 8, 12 * 32), cores=12)
    """
    dims = {tuple(spectrum.shape[0] for spectrum in three) for three in spectra.values()}
    if len(dims) != 1:
        raise ValueError(f"spectra: got matrices with the dimensions {sorted(dims)}; accepted: the same for all")
    lost = [_lost_energy([three[mode] for three in spectra.values()]) for mode in range(3)]
    r1, r2, r3 = np.ogrid[tuple(slice(1, d + 1) for d in dims.pop())]
    parameters = cores * r1 * r2 * r3 + sizes[0] * r1 + sizes[1] * r2 + sizes[2] * r3
    allowed = (parameters <= budget) & (r1 <= r2 * r3) & (r2 <= r1 * r3) & (r3 <= r1 * r2)
    if not allowed.any():
        raise ValueError(f"budget: got {budget}; accepted: {int(parameters.min())} or more, the cost of ranks (1, 1, 1)")
    bound = np.where(allowed, lost[0][:, None, None] + lost[1][None, :, None] + lost[2][None, None, :], np.inf)
    best = np.flatnonzero(bound <= bound.min() * (1 + 1e-12))
    place = best[np.argmin(np.broadcast_to(parameters, bound.shape).ravel()[best])]
    return tuple(int(i) + 1 for i in np.unravel_index(place, bound.shape))


def _lost_energy(spectra: Sequence[GradientSpectrum]) -> np.ndarray:
    """Mean share of the energy beyond ranks 1 to d, shape (d,)."""
    shares = []
    for spectrum in spectra:
        energy = np.zeros(spectrum.shape[0])
        energy[: len(spectrum.singular_values)] = spectrum.singular_values**2
        shares.append(np.append(np.cumsum(energy[::-1])[::-1], 0.0)[1:] / energy.sum())
    return np.mean(shares, axis=0)


def gradient_mode_spectra(
    gradients: Mapping[str, MeanGradient], model: nn.Module, num_heads: NumHeads = "auto"
) -> dict[str, tuple[GradientSpectrum, GradientSpectrum, GradientSpectrum]]:
    """Singular values of the three unfoldings of every gradient, with the floors of its sign-flipped companions.

    Parameters
    ----------
    gradients, model, num_heads
        As in `tucker_rank_pattern`.

    Returns
    -------
    dict of str to three GradientSpectrum
        Along heads, head_dim and d_model: the higher-order singular values (P2 appendix F.1). By full module name.

    Raises
    ------
    TypeError
        A module that is no ordinary linear layer.
    ValueError
        A module without heads.

    Examples
    --------
    With `model` and `batches` from `companion.data`::

        gradients = mean_gradients(model, batches, ["query", "value"])
        for name, (heads, head_dim, d_model) in gradient_mode_spectra(gradients, model).items():
            print(name, heads.singular_values / heads.noise_floor)
    """
    found = {}
    for name, gradient in gradients.items():
        shape = head_shape(model, name, num_heads)
        mean, flipped = shape.as_tensor(gradient.mean), shape.as_tensor(gradient.flipped)
        unfolded = ((_unfold(mean, mode), _unfold(flipped, mode)) for mode in (-3, -2, -1))
        found[name] = tuple(spectrum_of(MeanGradient(total, flips, gradient.n_examples)) for total, flips in unfolded)
    return found


def _unfold(tensors: Tensor, mode: int) -> Tensor:
    """(..., d1, d2, d3) as (..., d_mode, product of the others)."""
    return torch.movedim(tensors, mode, -3).flatten(-2)


def _possible(ranks: list[int]) -> tuple[int, int, int]:
    """No rank above the product of the other two; only the largest can be."""
    r1, r2, r3 = ranks
    return min(r1, r2 * r3), min(r2, r1 * r3), min(r3, r1 * r2)
