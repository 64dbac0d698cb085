"""What a set of gradient spectra supports: how many modes stand clear of the noise, and how many examples the first would need."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from scipy.stats import t

from companion.rank_rules import Spectrum, floor_rank

__all__ = ["Assessment", "assess", "examples_needed", "joint_p_value"]


@dataclass(frozen=True)
class Assessment:
    """Summary of the spectra of one model on one set of examples; ``str()`` gives the advice in words.

    Attributes
    ----------
    n_matrices, n_above : int
        Matrices looked at, and those with at least one singular value above their noise floor.
    n_modes : int
        Singular values above the floor, over all matrices; of a sketch, at most its k in each.
    n_examples : int
        Examples in the gradients.
    level : float
        Chance that a matrix of pure noise counts as above.
    p_value : float
        Of all matrices together, against pure noise, approximately; see `joint_p_value`.
    needed, needed_at_least : float
        Order of magnitude of the examples from which on a first mode would stand clear in the typical (median) matrix:
        estimate, and lower end of its two-standard-error range; infinite when no signal is seen, NaN without flip energies.
    """

    n_matrices: int
    n_above: int
    n_modes: int
    n_examples: int
    level: float
    p_value: float
    needed: float
    needed_at_least: float

    @property
    def resolved(self) -> bool:
        """Whether at least half of the matrices show a mode and all together exceed noise (p < .01)."""
        return 2 * self.n_above >= self.n_matrices and self.p_value < 0.01

    def __str__(self) -> str:
        found = (
            f"{self.n_above} of {self.n_matrices} matrices have a mode above the noise floor of {self.n_examples:,} examples "
            f"(pure noise: {self.level * self.n_matrices:.1f} on average, but in clusters; all together p = {self.p_value:.2g})"
        )
        if self.resolved:
            return f"{found}, {self.n_modes} modes in all: ranks read off these modes are read off the task."
        verdict = "few modes stand clear" if self.p_value < 0.01 else "as a whole the spectra cannot be told from noise"
        return f"{found}: {verdict}.{self._outlook()} A small uniform rank (r = 4 or 8) is the sounder choice here."

    def _outlook(self) -> str:
        if np.isnan(self.needed):
            return ""
        if not np.isfinite(self.needed_at_least):
            return " How many examples a first mode would need, these cannot tell."
        least = f"{_round(self.needed_at_least):,}"
        if self.needed > 10 * self.needed_at_least:  # the energy is within its error of none at all
            need = f"{least} examples or more; how many, these cannot tell"
        else:
            need = f"{_round(self.needed):,} examples ({least} at the low end)"
        return f" In a typical matrix a first mode would need of the order of {need}."


def assess(spectra: Mapping[str, Spectrum]) -> Assessment:
    """Count what stands above the noise floors and extrapolate to the first mode.

    Parameters
    ----------
    spectra : mapping of str to GradientSpectrum
        Of one model on one set of examples, with at least one flip.

    Returns
    -------
    Assessment

    Raises
    ------
    ValueError
        No spectrum, or one without flips.

    Examples
    --------
    Two matrices whose first singular value is ten times the floor, and one that is noise:

    >>> from companion.gradients import GradientSpectrum
    >>> floors = 1 + 0.01 * np.arange(9)
    >>> def spectrum(first):
    ...     values = np.array([first, 0.5])
    ...     return GradientSpectrum(values, floors, (2, 2), 512, floors**2)
    >>> strengths = {"query": 10.0, "key": 10.0, "value": 1.0}
    >>> assessment = assess({n: spectrum(s) for n, s in strengths.items()})
    >>> assessment.n_above, assessment.n_modes, assessment.resolved
    (2, 2, True)
    """
    every = list(spectra.values())
    if not every:
        raise ValueError("spectra: got an empty mapping; accepted: at least one matrix")
    ranks = [floor_rank(spectrum.singular_values, spectrum.noise_floor) for spectrum in every]
    above, level = int(np.count_nonzero(ranks)), every[0].level
    needed, least = examples_needed(every)
    return Assessment(
        n_matrices=len(every),
        n_above=above,
        n_modes=int(sum(ranks)),
        n_examples=every[0].n_examples,
        level=level,
        p_value=joint_p_value(every),
        needed=needed,
        needed_at_least=least,
    )


def joint_p_value(spectra: Iterable[Spectrum]) -> float:
    """How likely pure noise is to lift the leading singular values of all matrices this far.

    Alarms of single matrices come in clusters: the matrices share the examples and the signs, so an unlucky draw of flips
    lowers every floor at once. Here each flip is a draw of the whole set: the statistic is the upper quartile over the
    matrices of ``log(s_1 / its median over data and flips)`` (signal need not be in all of them, one odd matrix does not
    count), its scatter over the flips is the noise, and the tail is Student's with flips - 1 degrees of freedom. This is
    an approximation (a rank among the flips could not go below 1 / (flips + 1)), and somewhat too ready to find signal:
    with 9 flips and independent matrices, p < .01 came up in .02 of noise draws.

    Parameters
    ----------
    spectra : iterable of GradientSpectrum
        Of one model on one set of examples, with at least one flip.

    Returns
    -------
    float
        One-sided; 1 where there is no gradient, NaN with a single flip.

    Raises
    ------
    ValueError
        A spectrum without flips.
    """
    spectra = [s for s in spectra if s.noise_floor > 0 and s.singular_values[0] > 0]
    if not spectra:
        return 1.0
    logs = np.log([[s.singular_values[0], *s.floors] for s in spectra])  # (matrices, 1 + flips)
    measured, *flipped = np.quantile(logs - np.median(logs, axis=1, keepdims=True), 0.75, axis=0)
    if len(flipped) < 2:
        return np.nan
    scatter = np.std(flipped, ddof=1) * np.sqrt(1 + 1 / len(flipped))
    return float(t.sf((measured - np.mean(flipped)) / scatter, len(flipped) - 1)) if scatter > 0 else float(measured <= 0)


def examples_needed(spectra: Iterable[Spectrum]) -> tuple[float, float]:
    """Examples from which on a first mode would stand clear in the median matrix, and the lower end of its error range.

    With ``G`` the mean gradient of n examples and ``F_j`` its flips, ``|G|² - mean_j |F_j|²`` (squared Frobenius norms)
    estimates the energy of the expected gradient without bias; u is that energy in units of the squared floor, median over
    the matrices. The floor falls like ``1/sqrt(n)``, so a mode that holds all of the energy passes it from about ``n / u``
    examples on. An order of magnitude: noise lifts a mode over the floor before that (for even noise in a square matrix up to 4 times earlier, the
    spike transition), and energy spread over several modes passes later. Each flip in the place of G gives a draw of u
    without signal, with all the dependence between matrices (they share the signs); their standard deviation e gives the
    lower end, ``n / (u + 2 e)``.

    Parameters
    ----------
    spectra : iterable of GradientSpectrum
        Of one model on one set of examples, with `flip_energies`.

    Returns
    -------
    (float, float)
        Estimate and lower end; infinite where no energy is left, NaN without flip energies or with fewer than 3 flips.
    """
    spectra = list(spectra)
    if any(s.flip_energies is None or len(s.flip_energies) < 3 for s in spectra):
        return np.nan, np.nan
    flips = np.array([s.flip_energies / s.noise_floor**2 for s in spectra if s.noise_floor > 0])  # (matrices, flips)
    if not len(flips):
        return np.nan, np.nan
    energy = np.array([_energy(s) for s in spectra if s.noise_floor > 0])
    u = np.median(energy - flips.mean(axis=1))
    others = (flips.sum(axis=1, keepdims=True) - flips) / (flips.shape[1] - 1)  # mean of the other flips, for each flip
    error = np.std(np.median(flips - others, axis=0), ddof=1)
    return tuple(float(spectra[0].n_examples / value) if value > 0 else np.inf for value in (u, u + 2 * error))


def _energy(spectrum: Spectrum) -> float:
    """Squared Frobenius norm of the mean gradient in units of the squared floor; a sketch brings an estimate of it."""
    if getattr(spectrum, "energy", None) is not None:
        return spectrum.energy / spectrum.noise_floor**2
    return np.sum((spectrum.singular_values / spectrum.noise_floor) ** 2)


def _round(number: float) -> int:
    """Two significant digits: the estimate is no better."""
    return int(float(f"{number:.2g}"))
