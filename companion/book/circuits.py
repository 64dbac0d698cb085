"""Small circuits over discrete variables as lists of units, and the tensors of their values."""

from __future__ import annotations

import numpy as np

__all__ = ["equality", "mixture", "tensor_of", "two_level"]

Unit = tuple[str, object]
"""An input ``("input", (variable, table))``, a sum ``("sum", (units, weights))`` or a product ``("product", units)``."""


def tensor_of(circuit: list[Unit], dims: tuple[int, ...]) -> np.ndarray:
    """Value of the last unit for all values of the variables, scaled to sum 1, shape `dims`."""
    values: list[np.ndarray] = []
    for kind, content in circuit:
        if kind == "input":
            variable, table = content
            values.append(np.reshape(table, [-1 if k == variable else 1 for k in range(len(dims))]))
        elif kind == "sum":
            values.append(sum(w * values[unit] for unit, w in zip(*content, strict=True)))
        else:
            values.append(np.prod(np.broadcast_arrays(*(values[unit] for unit in content)), axis=0))
    whole = np.broadcast_to(values[-1], dims)
    return whole / whole.sum()


def mixture(dims: tuple[int, ...], components: int, rng: np.random.Generator) -> list[Unit]:
    """A mixture of products: inputs, a product for each component, one sum."""
    n = len(dims)
    circuit: list[Unit] = [("input", (k, rng.dirichlet(np.ones(d)))) for _ in range(components) for k, d in enumerate(dims)]
    circuit += [("product", range(n * j, n * j + n)) for j in range(components)]
    return [*circuit, ("sum", (range(n * components, len(circuit)), rng.dirichlet(np.ones(components))))]


def two_level(dims: tuple[int, int, int], components: int, shared: int, rng: np.random.Generator) -> list[Unit]:
    """Mixtures of the first two variables, from the same products, times inputs of the third; their sum on top."""
    below = mixture(dims[:2], components, rng)[:-1]
    products, circuit = range(2 * components, 3 * components), below
    circuit = circuit + [("sum", (products, rng.dirichlet(np.ones(components)))) for _ in range(shared)]
    circuit += [("input", (2, rng.dirichlet(np.ones(dims[2])))) for _ in range(shared)]
    first = 3 * components
    circuit += [("product", (first + j, first + shared + j)) for j in range(shared)]
    tops = range(first + 2 * shared, first + 3 * shared)
    return [*circuit, ("sum", (tops, rng.dirichlet(np.ones(shared))))]


def equality(bits: int) -> list[Unit]:
    """Are three numbers equal? A product over their bits of "all 0 or all 1": its factors share all variables."""
    numbers, circuit, sums = np.arange(2**bits), [], []
    for j in range(bits):
        bit, first = numbers >> j & 1, len(circuit)
        circuit += [("input", (k, table)) for table in (bit, 1 - bit) for k in range(3)]
        circuit += [("product", range(first, first + 3)), ("product", range(first + 3, first + 6))]
        circuit.append(("sum", ((first + 6, first + 7), (1, 1))))
        sums.append(len(circuit) - 1)
    return [*circuit, ("product", sums)]
