"""How many parameters Tucker-LoRA and matrix LoRA need for the same tensors."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from companion import _tensors, _validate

__all__ = ["ParameterCounts", "lora_parameters", "parameter_counts"]


@dataclass(frozen=True)
class ParameterCounts:
    """Parameters of the ways to write all tensors of one Tucker rank (P2 theorem 5.3).

    Attributes
    ----------
    tucker : int
        Core and factors, ``prod s_k + sum s_k d_k``.
    lora_printed : int
        P2's matrix LoRA, of rank ``s_1 s_2`` on the unfolding to ``(d_1 d_2) x d_3``: ``s_1 s_2 (d_1 d_2 + d_3)``. For
        order N the product of all ranks and of all dimensions but the last.
    lora_by_mode : tuple of int
        Matrix LoRA on unfolding k, of the rank that unfolding has: ``s_k (d_k + prod_{j != k} d_j)``.
    lora_fair : int
        The least of `lora_by_mode`.
    dense : int
        Entries of the tensor.
    """

    tucker: int
    lora_printed: int
    lora_by_mode: tuple[int, ...]
    dense: int

    @property
    def lora_fair(self) -> int:
        """The least of `lora_by_mode`."""
        return min(self.lora_by_mode)


def parameter_counts(dims: Sequence[int], ranks: Sequence[int]) -> ParameterCounts:
    """Parameters of Tucker-LoRA and of matrix LoRA for a tensor of given Tucker rank (P2 theorem 5.3).

    Parameters
    ----------
    dims : sequence of int
        ``(d_1, ..., d_N)``, N >= 2.
    ranks : sequence of int
        ``(s_1, ..., s_N)``, ``1 <= s_k <= d_k``. Where one exceeds the product of the others, the unfolding has that
        product as its rank and `lora_by_mode` counts it.

    Returns
    -------
    ParameterCounts

    Raises
    ------
    TypeError, ValueError
        Dimensions or ranks that are no integers, below 1 or too few; ranks above the dimensions.

    Notes
    -----
    P2 prints the ratio ``O(1 / d_min)`` for growing dimensions and fixed ranks, against `lora_printed`. It needs
    ``d_N = o(d_1 ... d_{N-1})`` even so. Against the fair count, with mode N of an attention weight, ``d_1 d_2 = d_3``,
    the ratio is above 1/2 for all dimensions, as both hold the ``s_3 d_3`` of the last factor.

    Examples
    --------
    >>> counts = parameter_counts((12, 64, 768), (4, 2, 2))
    >>> counts.tucker, counts.lora_printed, counts.lora_fair
    (1728, 12288, 3072)
    """
    d = _tensors.dimensions(dims)
    s = _tensors.ranks_of(ranks, d)
    within = [min(s_k, prod(s) // s_k) for s_k in s]  # the rank that the unfolding can have
    return ParameterCounts(
        tucker=prod(s) + sum(s_k * d_k for s_k, d_k in zip(s, d, strict=True)),
        lora_printed=prod(s[:-1]) * (prod(d[:-1]) + d[-1]),
        lora_by_mode=tuple(s_k * (d_k + prod(d) // d_k) for s_k, d_k in zip(within, d, strict=True)),
        dense=prod(d),
    )


def lora_parameters(dims: Sequence[int], rank: int, mode: int = -1) -> int:
    """Parameters of matrix LoRA of a given rank on one unfolding, ``r (d_k + prod_{j != k} d_j)``.

    The comparison at equal rank: ``rank = r_3`` on the last mode is the usual LoRA of the weight, ``(d_1 d_2) x d_3``.

    Parameters
    ----------
    dims : sequence of int
        ``(d_1, ..., d_N)``, N >= 2.
    rank : int
        r >= 1.
    mode : int
        k from 0; negative from the end. The last by default.

    Returns
    -------
    int

    Raises
    ------
    TypeError, ValueError
        Numbers that are no integers or out of range; fewer than two dimensions.

    Examples
    --------
    >>> lora_parameters((12, 64, 768), rank=2)
    3072
    """
    d = _tensors.dimensions(dims)
    one = d[_tensors.mode_index(mode, len(d))]
    return _validate.integer("rank", rank, 1) * (one + prod(d) // one)
