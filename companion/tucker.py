"""Tucker decompositions of weight tensors: spectra of the modes, HOSVD, ranks, parameter counts, and the way back to LoRA.

A projection with heads is a tensor of order 3, ``(heads, head dim, model dim)`` (P2 section 5.1), and a Tucker update of it
is ``Delta T = G x_1 U_1 x_2 U_2 x_3 U_3`` with a core G of shape ``(r_1, r_2, r_3)`` and factors U_k of shape
``(d_k, r_k)`` (P2 eq. 8). Everything here takes tensors of any order N >= 2. Modes are counted from 0; unfoldings are
those of tensorly, the other modes in their order and the last one fastest, and a `Tucker` is a pair that tensorly's
functions take as theirs. How the factors learn: `companion.tucker_flow`.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from companion import _tensors, _validate
from companion.tensor_spectra import (
    ModeSpectrum,
    mode_floors,
    mode_ranks,
    mode_singular_values,
    mode_spectra,
    unfolding_ranks,
)
from companion.tucker_counts import ParameterCounts, lora_parameters, parameter_counts

__all__ = [
    "ModeSpectrum",
    "ParameterCounts",
    "Tucker",
    "hosvd",
    "lora_equivalent",
    "lora_parameters",
    "mode_floors",
    "mode_ranks",
    "mode_singular_values",
    "mode_spectra",
    "parameter_counts",
    "tucker_ranks",
    "unfolding_ranks",
]

tucker_ranks = mode_ranks  # its first name; `companion.tucker_ranks` is about Tucker-LoRA


class Tucker(NamedTuple):
    """A tensor in Tucker form, ``G x_1 U_1 x_2 … x_N U_N`` (P2 eq. 8 and 25).

    Attributes
    ----------
    core : ndarray, shape (r_1, ..., r_N)
    factors : tuple of ndarray, shapes (d_k, r_k)
        With orthonormal columns where it comes from `hosvd`, any matrices otherwise.
    """

    core: np.ndarray
    factors: tuple[np.ndarray, ...]

    def to_tensor(self) -> np.ndarray:
        """Multiply out.

        Returns
        -------
        ndarray, shape (d_1, ..., d_N)
        """
        return _tensors.multiply(self.core, self.factors)


def hosvd(tensor: ArrayLike, ranks: Sequence[int], sweeps: int = 0) -> Tucker:
    """Truncated higher-order SVD, and higher-order orthogonal iteration from it.

    Factor k holds the leading left singular vectors of unfolding k, the core is the tensor in these bases (P2 appendix F.1;
    De Lathauwer, De Moor and Vandewalle 2000a). A sweep replaces each factor in turn by the best one for the others (HOOI,
    2000b). It never increases the error.

    Parameters
    ----------
    tensor : array_like, shape (d_1, ..., d_N)
    ranks : sequence of int
        ``1 <= r_k <= d_k``, one for each mode. An r_k above the product of the other ranks buys nothing.
    sweeps : int
        Sweeps of HOOI, >= 0.

    Returns
    -------
    Tucker
        Factors with orthonormal columns, each column up to its sign.

    Raises
    ------
    TypeError
        Ranks or sweeps that are no integers, or a tensor that holds no real numbers.
    ValueError
        Order < 2, an empty dimension, NaN or infinity; ranks of the wrong number, below 1 or above the dimensions.

    Notes
    -----
    The squared error is at most the sum over the modes of the squared singular values cut off, hence at most N times that of
    the best approximation of these ranks. The error of HOOI lies between the two; it need not be the best.

    Examples
    --------
    >>> tensor = np.random.default_rng(0).standard_normal((4, 5, 6))
    >>> [round(float(np.linalg.norm(tensor - hosvd(tensor, (2, 2, 3), n).to_tensor())), 2) for n in (0, 1, 5)]
    [8.17, 7.6, 7.52]
    """
    x = _tensors.tensor("tensor", tensor)
    r, count = _tensors.ranks_of(ranks, x.shape), _validate.integer("sweeps", sweeps, 0)
    factors = [_tensors.left_vectors(_tensors.unfold(x, k), r[k])[0] for k in range(x.ndim)]
    for _ in range(count):
        for k in range(x.ndim):
            seen = _tensors.multiply(x, factors, skip=k, transpose=True)  # (r_1, ..., d_k, ..., r_N)
            factors[k] = _tensors.left_vectors(_tensors.unfold(seen, k), r[k])[0]
    return Tucker(_tensors.multiply(x, factors, transpose=True), tuple(factors))


def lora_equivalent(tucker: Tucker, rows: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Plain LoRA factors of a Tucker update: ``Delta W = (U_1 (x) U_2) G_(12,3) U_3' = B A``, exactly.

    The rank is ``min(r_1 r_2, r_3)``: B is ``(U_1 (x) U_2) G_(12,3)`` and A is ``U_3'``, or B is ``U_1 (x) U_2`` and A the
    rest, whichever has fewer columns. In PEFT's letters B is lora_B (out x r), A is lora_A (r x in), with scaling 1.

    Parameters
    ----------
    tucker : Tucker, or any pair of a core (r_1, ..., r_N) and N factors (d_k, r_k)
    rows : int, optional
        How many leading modes index the rows of the matrix, from 1 to N - 1. By default all but the last, for weights whose
        heads are on the output side (query, key, value); 1 for ``(model dim, heads, head dim)``, the output projection.

    Returns
    -------
    (ndarray, ndarray), shapes (p, r) and (r, q)
        B and A; p is the product of the dimensions of the rows, q that of the others. Their product is
        ``to_tensor().reshape(p, q)``.

    Raises
    ------
    TypeError, ValueError
        No such pair, shapes that do not fit, NaN or infinity; `rows` out of range.

    Examples
    --------
    >>> tensor = np.random.default_rng(0).standard_normal((2, 3, 5))
    >>> b, a = lora_equivalent(hosvd(tensor, (2, 3, 4)))
    >>> b.shape, a.shape
    ((6, 4), (4, 5))
    """
    core, factors = _tensors.core_and_factors("tucker", tucker)
    cut = core.ndim - 1 if rows is None else _validate.integer("rows", rows, 1)
    if cut >= core.ndim:
        raise ValueError(f"rows must be from 1 to {core.ndim - 1} for a tensor of order {core.ndim}, got {rows}")
    left, right = _kronecker(factors[:cut]), _kronecker(factors[cut:])
    middle = core.reshape(left.shape[1], right.shape[1])
    if middle.shape[0] < middle.shape[1]:
        return left, middle @ right.T
    return left @ middle, right.T


def _kronecker(factors: Sequence[np.ndarray]) -> np.ndarray:
    """Kronecker product of (d_k, r_k), in the order of a reshaped tensor."""
    whole = np.ones((1, 1))
    for factor in factors:
        whole = np.kron(whole, factor)
    return whole
