"""What a set of gradient spectra supports: how many modes stand clear of the noise, and how many examples the first would need."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.stats import binom

from companion.rank_rules import Spectrum, floor_rank

__all__ = ["Assessment", "assess", "examples_needed"]


@dataclass(frozen=True)
class Assessment:
    """Summary of the spectra of one model on one set of examples; ``str()`` gives the advice in words.

    Attributes
    ----------
    n_matrices, n_above : int
        Matrices looked at, and those with at least one singular value above their noise floor.
    n_modes : int
        Singular values above the floor, over all matrices.
    n_examples : int
    level : float
        Chance that a matrix of pure noise counts as above.
    p_value : float
        Chance of `n_above` or more among independent matrices of pure noise.
    needed, needed_at_least : float
        Examples from which on a first mode would stand clear in the typical (median) matrix: estimate, and lower end of a
        two-standard-error range; infinite when no signal is seen, NaN when the spectra carry no flip energies.
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
        """Whether at least half of the matrices show a mode, and more than chance would."""
        return 2 * self.n_above >= self.n_matrices and self.p_value < 0.05

    def __str__(self) -> str:
        found = (
            f"{self.n_above} of {self.n_matrices} matrices have a mode above the noise floor of {self.n_examples:,} examples "
            f"({self.level * self.n_matrices:.1f} would by chance)"
        )
        if self.resolved:
            return f"{found}, {self.n_modes} modes in all: ranks read off these modes are read off the task."
        verdict = "few modes stand clear" if self.p_value < 0.05 else "the spectra cannot be told from noise"
        return f"{found}: {verdict}.{self._outlook()} A small uniform rank (r = 4 or 8) is the sounder choice here."

    def _outlook(self) -> str:
        if np.isnan(self.needed):
            return ""
        least = f"at least {_round(self.needed_at_least):,}"
        if self.needed > 10 * self.needed_at_least:  # the estimate is within its error of no signal at all
            return f" In a typical matrix the first mode would need {least} examples."
        return f" In a typical matrix the first mode would need about {_round(self.needed):,} examples ({least})."


def assess(spectra: Mapping[str, Spectrum]) -> Assessment:
    """Count what stands above the noise floors and extrapolate to the first mode.

    Parameters
    ----------
    spectra : mapping of str to GradientSpectrum
        Of one model on one set of examples, with at least one flip.

    Returns
    -------
    Assessment
    """
    every = list(spectra.values())
    if not every:
        raise ValueError("spectra: got an empty mapping; accepted: at least one matrix")
    ranks = [floor_rank(spectrum.singular_values, spectrum.noise_floor) for spectrum in every]
    above, level = int(np.count_nonzero(ranks)), every[0].level
    needed, least = np.median([examples_needed(spectrum) for spectrum in every], axis=0)
    return Assessment(
        n_matrices=len(every),
        n_above=above,
        n_modes=int(sum(ranks)),
        n_examples=every[0].n_examples,
        level=level,
        p_value=float(binom.sf(above - 1, len(every), level)),
        needed=float(needed),
        needed_at_least=float(least),
    )


def examples_needed(spectrum: Spectrum) -> tuple[float, float]:
    """Examples from which on the first mode of one matrix would stand clear, and the lower end of a two-standard-error range.

    With G the mean gradient of n examples and F_j its flips, E|G|² - E|F|² (squared Frobenius norms) is the energy of the
    expected gradient, without bias. If all of it lay in one mode, that mode would pass the floor f of n examples, which
    falls like 1/sqrt(n), from n f² / (|G|² - mean_j |F_j|²) examples on: more modes, or an unlucky direction, need more.

    Parameters
    ----------
    spectrum : GradientSpectrum
        With `flip_energies`.

    Returns
    -------
    (float, float)
        Estimate and lower end; infinite when the energy is not positive, NaN without flip energies or with a single flip.
    """
    energies = spectrum.flip_energies
    if energies is None or len(energies) < 2:
        return np.nan, np.nan
    signal = np.sum(np.square(spectrum.singular_values)) - np.mean(energies)
    error = np.std(energies, ddof=1) * np.sqrt(1 + 1 / len(energies))
    scale = spectrum.n_examples * spectrum.noise_floor**2
    return tuple(float(scale / energy) if energy > 0 else np.inf for energy in (signal, signal + 2 * error))


def _round(number: float) -> int:
    """Two significant digits: the estimate is no better."""
    return int(float(f"{number:.2g}")) if np.isfinite(number) else 0
