"""Are ranks a property of the task or of the draw? Ranks on random halves of the examples, from the same pass.

With balanced signs s_i = ±1 the flipped mean is ``F = sum_i s_i g_i / n``, so ``G + F`` and ``G - F`` are the mean
gradients of the two halves of the examples: every flip of the noise floor is a split into halves as well. (Where signs
do not cancel exactly, the flips are centred, and the halves are soft at the edge: weights near 0 and 2, not 0 and 2.)
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from scipy.stats import spearmanr

from companion.gradients import GradientSpectrum, MeanGradient, spectrum_of
from companion.rank_rules import Spectrum, make_rule

__all__ = ["Stability", "artefacts", "split_halves"]


@dataclass(frozen=True, eq=False)
class Stability:
    """Ranks on halves of the examples.

    Attributes
    ----------
    ranks : dict of str to ndarray, shape (splits, 2)
        Of the two halves in every split, by matrix.
    correlation : float
        Spearman's correlation over the matrices between the ranks of the two halves, mean over the splits; NaN where
        all ranks are equal in every split.
    reliability : float
        What it would be between two draws of all the examples, ``2 r / (1 + r)`` (Spearman and Brown's formula, for
        errors that average out; an extrapolation). NaN where r is not positive.
    agreement : float
        Share of matrices whose two halves give the same rank.
    """

    ranks: dict[str, np.ndarray]
    correlation: float
    reliability: float
    agreement: float

    def __str__(self) -> str:
        if np.isnan(self.correlation):
            return f"halves of the examples agree on {self.agreement:.0%} of the ranks; all matrices have the same"
        order = f"order the matrices alike with correlation {self.correlation:.2f}"
        return f"halves of the examples agree on {self.agreement:.0%} of the ranks and {order}"


def split_halves(gradients: Mapping[str, MeanGradient], rule: str | Callable[[Spectrum], int]) -> Stability:
    """Apply a rule to both halves of every split that the flips stand for.

    Parameters
    ----------
    gradients : mapping of str to MeanGradient
        From `companion.gradients.mean_gradients`, with one flip or more.
    rule : str or callable
        As for `companion.rank_rules.make_rule`.

    Returns
    -------
    Stability

    Raises
    ------
    ValueError
        No matrix, no flips, or a rule that answers no rank.

    Notes
    -----
    A half has half the examples: floors are those of the whole times the root of two. Where examples differ in weight
    (scored tokens) a half is one up to the weights.

    Examples
    --------
    The examples disagree wherever the flips are large:

    >>> mean, flips = torch.diag(torch.tensor([4.0, 1.0])), torch.zeros(1, 2, 2)
    >>> same = {name: MeanGradient(mean, flips, 64) for name in ("query", "value")}
    >>> split_halves(same, "energy:0.9").agreement
    1.0
    """
    if not gradients:
        raise ValueError("gradients: got an empty mapping; accepted: at least one matrix")
    rank_of = make_rule(rule)
    ranks = {name: _halves(name, gradient, rank_of) for name, gradient in gradients.items()}
    table = np.array(list(ranks.values()))  # (matrices, splits, 2)
    pairs = [table[:, split].T for split in range(table.shape[1])]
    found = [spearmanr(*pair).statistic for pair in pairs if all(np.ptp(half) > 0 for half in pair)]
    correlation = float(np.mean(found)) if found else np.nan
    return Stability(
        ranks=ranks,
        correlation=correlation,
        reliability=2 * correlation / (1 + correlation) if correlation > 0 else np.nan,
        agreement=float(np.mean(table[:, :, 0] == table[:, :, 1])),
    )


def _halves(name: str, gradient: MeanGradient, rank_of: Callable[[Spectrum], int]) -> np.ndarray:
    if not len(gradient.flipped):
        raise ValueError(f"gradients[{name!r}] holds no flips; measure with flips >= 1")
    whole = spectrum_of(gradient)
    half = gradient.n_examples // 2
    answers = []
    for flip in gradient.flipped:
        for sign in (1, -1):
            values = torch.linalg.svdvals((gradient.mean + sign * flip).double()).cpu().numpy()
            energies = 2 * whole.flip_energies
            answers.append(rank_of(GradientSpectrum(values, np.sqrt(2) * whole.floors, whole.shape, half, energies)))
    return np.array(answers).reshape(-1, 2)


def artefacts(
    ranks: Mapping[str, int],
    spectra: Mapping[str, Spectrum],
    n_classes: int | None = None,
    n_tokens: int | None = None,
) -> dict[str, str]:
    """Ranks that may be a number of the measurement and not of the task.

    A mean gradient of n examples is a sum of outer products: with classification-token pooling the last query gradient
    has at most n of them, a fresh head of K classes sends everything through K - 1 directions, and a first layer cannot
    exceed the number of distinct tokens. A rule that looks for a cliff finds that number.

    Parameters
    ----------
    ranks : mapping of str to int
    spectra : mapping of str to GradientSpectrum
        The spectra that the ranks were read from.
    n_classes : int, optional
        Outputs of the head.
    n_tokens : int, optional
        Distinct tokens in the examples.

    Returns
    -------
    dict of str to str
        For every suspicious rank the number that it equals, in words, by matrix.

    Raises
    ------
    ValueError
        A rank without a spectrum.

    Examples
    --------
    >>> from companion.gradients import GradientSpectrum
    >>> spectrum = GradientSpectrum(np.ones(100), np.ones(9), (100, 100), n_examples=64)
    >>> artefacts({"query": 64, "value": 5}, {"query": spectrum, "value": spectrum})
    {'query': 'rank 64 is the number of examples'}
    """
    found = {}
    for name, rank in ranks.items():
        if name not in spectra:
            raise ValueError(f"ranks: {name!r} has no spectrum")
        spectrum = spectra[name]
        values = np.sort(spectrum.singular_values)[::-1]
        numerical = int(np.sum(values > max(spectrum.shape) * np.finfo(np.float32).eps * values[0]))
        numbers = {"the number of examples": spectrum.n_examples, "the number of distinct tokens": n_tokens}
        if n_classes is not None and n_classes > 2:  # K - 1 = 1 is also an honest answer
            numbers["one less than the number of classes"] = n_classes - 1
        if numerical < values.size == min(spectrum.shape):  # of a sketch the numerical rank is not known
            numbers["the numerical rank of the gradient"] = numerical
        equal = [words for words, number in numbers.items() if number is not None and rank == number]
        if rank and equal:
            found[name] = f"rank {rank} is {equal[0]}"
    return found
