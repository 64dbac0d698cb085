"""Leading singular values of matrices too large to keep, from a stream of their thin factors.

A gradient arrives as a sum of products ``dY_b' X_b``. Products with thin matrices can be summed without forming it:
``G Omega = sum_b dY_b' (X_b Omega)`` and ``G' Q = sum_b X_b' (dY_b Q)``. The first reading of the data takes a random
range sketch (Halko, Martinsson and Tropp 2011), every further one half a step of subspace iteration, from alternating
sides, so that reading p weighs singular value j with ``sigma_j^(p-1)``. One reading alone would not do: the tail of a
gradient holds many times the energy of its sixteenth singular value, and linear sketches grow with that ratio.

The values are lower bounds (projections), with an upper bound beside them. After a reading the matrix is
``G = [[S, 0], [B, E]]`` in the bases of the last two readings, S and ``B'B`` known, and with any ``e >= |E|``

    eig_i(S² + B'B)  <=  sigma_i²  <=  eig_i(S² + c B'B),   c = sigma_i² / (sigma_i² - e²),

by eliminating E from the eigenvalue equation; also ``sigma_i² <= eig_i(S² + B'B) + e²`` (Weyl). e is estimated, on the
safe side: E begins where the subspace ends, so the middle of the computed values is above it but for what iteration has
not yet sorted out. Where values lie as close together as in a bulk of noise, e is no smaller than they are and both
bounds say little; there the stated error is four times what is left of the geometric series of the last two
improvements, if that is smaller. The energy outside the subspace comes from columns of the range sketch that were held
out as a test of the residual (Tropp, Yurtsever, Udell and Cevher 2019).
"""

import math
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from numbers import Integral, Real

import numpy as np
import torch
from torch import Tensor

__all__ = [
    "DenseSums",
    "Sketch",
    "SketchedSums",
    "accumulators",
    "as_sketch",
    "sketch_entries",
    "sketch_saves",
    "warn_of_errors",
]

TESTS = 16  # held-out columns
_CHUNK_ENTRIES = 2**24  # per-example gradients held at a time: 64 MiB in float32


@dataclass(frozen=True)
class Sketch:
    """Leading singular values only, in memory that grows with out + in instead of out times in.

    Attributes
    ----------
    k : int
        How many leading singular values.
    tolerance : float
        Stated relative error at which reading stops, for the k values and for every noise floor.
    passes : int
        Readings of the data at most, 2 or more, each with a forward and a backward pass. Steep spectra need 2 or 3,
        flat ones (a bulk of noise) more.
    """

    k: int = 16
    tolerance: float = 0.01
    passes: int = 8

    def __post_init__(self):
        for name, least in (("k", 1), ("passes", 2)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
                raise ValueError(f"sketch: {name} came as {value!r}; accepted: an integer >= {least}")
        tolerance = self.tolerance
        if isinstance(tolerance, bool) or not isinstance(tolerance, Real) or not 0 < tolerance < 1:
            raise ValueError(f"sketch: tolerance came as {tolerance!r}; accepted: a number between 0 and 1")

    @property
    def columns(self) -> int:
        """Columns of each product, 4 k + 64."""
        return 4 * self.k + 64


def as_sketch(sketch: Sketch | int | None) -> Sketch | None:
    """A number of singular values stands for a `Sketch` with the other settings at their defaults."""
    return sketch if sketch is None or isinstance(sketch, Sketch) else Sketch(sketch)


def sketch_entries(sketch: Sketch, shape: tuple[int, int], flips: int) -> int:
    """Numbers kept for one target and its flips at the fullest moment: bases, products, held-out columns."""
    out_features, in_features = shape
    each = sketch.columns * (out_features + in_features) + TESTS * out_features
    return (1 + flips) * each + TESTS * in_features


def sketch_saves(sketch: Sketch | None, shape: tuple[int, int], flips: int) -> bool:
    """Whether that is less than the matrices themselves; otherwise they are kept, and the result is exact."""
    return sketch is not None and sketch_entries(sketch, shape, flips) < (1 + flips) * math.prod(shape)


def accumulators(names: Iterable[str], flips: int, sketch: Sketch | None, rng: np.random.Generator) -> Callable:
    """What makes the sums of a target from its name, the shape, the type of its numbers and the device."""
    seeds = {name: int(rng.integers(2**62)) for name in names} if sketch else {}

    def new_sums(name: str, shape: tuple[int, int], dtype: torch.dtype, device: torch.device) -> DenseSums:
        if sketch_saves(sketch, shape, flips):
            return SketchedSums(shape, flips, dtype, device, sketch, seeds[name])
        return DenseSums(shape, flips, dtype, device)

    return new_sums


def warn_of_errors(spectra: Mapping[str, object], sketch: Sketch) -> None:
    """UserWarning where a stated error is wider than asked for, values at rounding level left aside."""
    worst = {}
    for name, spectrum in spectra.items():
        values = np.append(spectrum.singular_values, spectrum.floors)
        errors = np.append(spectrum.errors, spectrum.floor_errors)
        clear = values > 1e-3 * values.max()
        worst[name] = np.max(errors[clear] / values[clear], initial=0.0)
    wide = [name for name, error in worst.items() if error > sketch.tolerance]
    if wide:
        largest = max(wide, key=worst.get)
        warnings.warn(
            f"sketch: after {sketch.passes} readings {len(wide)} of {len(worst)} matrices have a stated error above "
            f"{sketch.tolerance:g} (largest: {worst[largest]:.2g}, in {largest}); allow more passes, or take fewer "
            "targets at a time without a sketch",
            stacklevel=3,
        )


class DenseSums:
    """sum_i w_i g_i and sum_i s_ij w_i g_i for every flip j, entry by entry."""

    done = False

    def __init__(self, shape: tuple[int, int], flips: int, dtype: torch.dtype, device: torch.device):
        self.shape = shape
        self.total = torch.zeros(1 + flips, math.prod(shape), dtype=dtype, device=device)

    def add(self, x: Tensor, dy: Tensor, signs: Tensor) -> None:
        """Add dY_i' X_i of each example by every row of signs: x (B, T, in), dy (B, T, out), signs (1 + flips, B)."""
        step = max(1, _CHUNK_ENTRIES // (dy.shape[2] * x.shape[2]))
        for i in range(0, len(x), step):
            gradients = torch.bmm(dy[i : i + step].mT, x[i : i + step])  # (b, out, in)
            self.total.addmm_(signs[:, i : i + step], gradients.flatten(1))

    def centre(self, weight: float, m: np.ndarray) -> None:
        """First row divided by the weight W; the others (sum_j / W - m_j mean) / sqrt(1 - m_j²)."""
        self.total.div_(weight)
        flipped = self.total[1:]
        flipped.addmm_(self.total.new_tensor(m)[:, None], self.total[:1], alpha=-1)
        flipped.div_(self.total.new_tensor(np.sqrt(1 - m**2))[:, None])

    def close(self) -> None:
        """After a reading."""
        self.done = True


class SketchedSums(DenseSums):
    """Singular values of the same sums, from thin products: half a step of subspace iteration with every reading.

    Attributes
    ----------
    done : bool
        Every value is as exact as was asked for.
    values, errors : Tensor, shape (1 + flips, k), float64
        Of the mean, and in the other rows of the flips, decreasing. The truth lies from values to values + errors; of
        flips only the first error is looked at (the others are NaN).
    energies : Tensor, shape (1 + flips,), float64
        Squared Frobenius norms: the part outside the subspace is an unbiased estimate.
    """

    def __init__(self, shape, flips: int, dtype: torch.dtype, device: torch.device, sketch: Sketch, seed: int):
        super().__init__((shape[0], sketch.columns + TESTS), flips, dtype, device)
        self.matrix_shape, self.sketch, self.reading = shape, sketch, 1
        generator = torch.Generator().manual_seed(seed)  # on the CPU: the same on every device
        self.omega = torch.randn(shape[1], self.shape[1], generator=generator, dtype=dtype).to(device)
        self.basis, self.ritz = None, None  # (1 + flips, in or out, columns), its singular values one reading before
        self.values = self.errors = torch.zeros(1 + flips, sketch.k, dtype=torch.float64)
        self.improvement = None  # of the values by the last reading
        self.energies = torch.zeros(1 + flips, dtype=torch.float64)

    def add(self, x: Tensor, dy: Tensor, signs: Tensor) -> None:
        if self.basis is None:
            super().add(x @ self.omega, dy, signs)
            return
        if self.reading % 2 == 0:  # basis on the out side: G' Q; else G V
            x, dy = dy, x
        if self.total is None:
            self.total = x.new_zeros(len(self.basis), dy.shape[2], self.sketch.columns)
        for total, basis, sign in zip(self.total, self.basis, signs, strict=True):
            thin = (x @ basis).mul_(sign[:, None, None])  # (B, T, columns)
            total.addmm_(dy.flatten(0, 1).mT, thin.flatten(0, 1))

    def close(self) -> None:
        if self.basis is None:
            self._start()
        else:
            found = [self._close_one(j) for j in range(len(self.total))]
            values, upper, self.energies, ritz = (torch.stack(rows) for rows in zip(*found, strict=True))
            self._set_errors(values, upper)
            self.values, self.ritz = values, ritz
            self.basis, self.total = self.total, None  # which now holds the left singular vectors of the products
            self.done = self._is_exact()
        self.reading += 1
        if self.done:
            self.basis = self.held_out = self.omega = None

    def result(self) -> dict:
        """The fields of a `GradientSpectrum`."""
        values, errors, energies = (tensor.numpy() for tensor in (self.values, self.errors, self.energies))
        mean = {"singular_values": values[0], "errors": errors[0], "energy": float(energies[0])}
        flips = {"floors": values[1:, 0], "floor_errors": errors[1:, 0], "flip_energies": energies[1:]}
        return {"shape": self.matrix_shape, **mean, **flips}

    def _start(self) -> None:
        """Range sketch and held-out columns apart; the range becomes a basis."""
        columns = self.sketch.columns
        total = self.total.view(-1, *self.shape)
        self.done = not self.total[0].any()
        self.held_out, self.omega = total[:, :, columns:].clone(), self.omega[:, columns:].clone()
        self.basis = total.new_empty(len(total), self.shape[0], columns)
        for basis, product in zip(self.basis, total, strict=True):
            basis.copy_(torch.linalg.qr(product[:, :columns].double())[0])
        self.total = None

    def _close_one(self, j: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Values, upper bounds, energy and all singular values of product j, which its left vectors replace."""
        product, basis, held_out = self.total[j].double(), self.basis[j].double(), self.held_out[j].double()
        if self.reading % 2 == 0:
            residual = held_out - basis @ (basis.mT @ held_out)
        else:
            residual = held_out - product @ (basis.mT @ self.omega.double())
        outside = residual.square().sum() / TESTS  # estimates |E|², squared Frobenius norm
        q, r = torch.linalg.qr(product)
        u, s, _ = torch.linalg.svd(r)
        self.total[j] = q @ u
        gram = None
        if self.ritz is not None:
            self._check_same_data(r.square().sum(0).sqrt().cpu(), self.ritz[j])
            gram = r.mT @ r - self.ritz[j].square().diag().to(r)  # B'B
        k = self.sketch.k
        upper = torch.full((k,), math.nan, dtype=torch.float64)
        wanted = k if j == 0 else 1
        upper[:wanted] = self._upper(s, gram, j, outside, wanted).cpu()
        return s[:k].cpu(), upper, (s.square().sum() + outside).cpu(), s.cpu()

    def _set_errors(self, values: Tensor, upper: Tensor) -> None:
        """From the upper bounds or, where less, from how the values converge; and the rounding of the sums."""
        errors = (upper - values).clamp_min(0)
        if self.ritz is not None:
            improvement = values - self.values
            if self.improvement is not None:
                ratio = (improvement / self.improvement.clamp_min(1e-300)).clamp(0, 0.97)
                errors = torch.minimum(errors, 4 * (improvement * ratio / (1 - ratio)).clamp_min(0))  # NaN stays
            self.improvement = improvement
        self.errors = errors + 10 * torch.finfo(self.total.dtype).eps * values[:, 0].max()

    def _upper(self, s: Tensor, gram: Tensor | None, j: int, outside: Tensor, k: int) -> Tensor:
        """Upper bounds of the k leading singular values."""
        square, tail = s[:k].square(), self._tail(s, gram, outside).square()
        upper = square + tail
        apart = square > tail
        if gram is not None and apart.any():
            factor = (square / (square - tail))[apart]
            before = self.ritz[j].square().diag().to(gram)
            inflated = torch.linalg.eigvalsh(before + factor[:, None, None] * gram).flip(1)  # (apart, columns)
            places = torch.arange(k, device=s.device)[apart]
            upper[apart] = torch.minimum(upper[apart], inflated.gather(1, places[:, None])[:, 0])
        return upper.sqrt()

    def _tail(self, s: Tensor, gram: Tensor | None, outside: Tensor) -> Tensor:
        """Estimate, on the safe side, of the norm of what the subspace leaves out."""
        half = len(s) // 2
        if gram is None:  # a range sketch alone leaves sqrt(|tail|² / columns) of every direction outside
            return 2 * s[half] + 4 * (outside / len(s)).sqrt()
        leaked = (gram.diagonal()[:half] / s[:half].clamp_min(1e-300)).max()  # of the leading directions
        return torch.hypot(2.2 ** (1 / self.reading) * s[half], leaked)

    def _is_exact(self) -> bool:
        resolution = 20 * torch.finfo(self.basis.dtype).eps * self.values[:, 0].max()
        exact = (self.errors <= self.sketch.tolerance * self.values) | (self.errors <= resolution)
        return bool((exact | self.errors.isnan()).all())

    def _check_same_data(self, norms: Tensor, before: Tensor) -> None:
        """Norms of the product's columns can only grow from one reading to the next."""
        k = self.sketch.k
        clear = before[:k] > 1e-3 * self.ritz[:, 0].max()
        if (norms[:k] < 0.9 * before[:k])[clear].any():
            raise ValueError(
                "loss_fn: the same batches gave other gradients when read again; a sketch needs a loss without "
                "randomness (or use sketch=None, which reads once)"
            )
