"""Checks of the exercises in the chapter *K\\*: the printed rule*.

Each function takes an answer, returns ``True`` if it is right, and otherwise raises ``AssertionError`` with a hint.
"""

from collections.abc import Callable

import numpy as np

from companion.kstar import LinearTask, ols, paper_tasks, paper_threshold

K_STAR, R_OPT = (12, 6, 3, 2, 2, 1, 3, 3, 1, 7), (12, 4, 3, 2, 1, 1, 1, 3, 1, 4)


def kstar_decay(largest_decay: Callable[[float, int, int], float]) -> bool:
    """Exercise 1: the largest decay rate with two true modes at or above P1's threshold, for C = 1."""
    for noise, dim, n in ((0.1, 64, 500), (0.5, 64, 500), (0.01, 32, 100)):
        given, right = largest_decay(noise, dim, n), 1 / paper_threshold(noise, dim, n)
        assert not np.isclose(given, right**0.5), "the modes are numbered from 0: the second one is C / rho"
        assert np.isclose(given, right), f"noise {noise}, d = {dim}, n = {n}: {given:.4g} given, {right:.4g} expected"
    return True


def kstar_shuffle(shuffle_p: Callable[..., float], seed: int = 0) -> bool:
    """Exercise 2: share of the orders of one column that match another at least as often, within a tolerance."""
    rng = np.random.default_rng(seed)
    a, b = np.array([1, 5, 9]), np.array([1, 5, 9])
    given = shuffle_p(a, b, 0, rng)
    assert np.isclose(given, 1 / 6, atol=0.02), f"of the 6 orders of 1, 5, 9 one has three matches, got {given:.3f}"
    given = shuffle_p(a, b, 8, rng)
    assert given == 1, f"within 8 all orders of 1, 5, 9 match everywhere, got {given:.3f}"
    orders = rng.permuted(np.tile(K_STAR, (50_000, 1)), axis=1)
    right = np.mean(np.sum(np.abs(orders - R_OPT) <= 2, axis=1) >= 9)
    given = shuffle_p(np.array(K_STAR), np.array(R_OPT), 2, rng)
    assert abs(given - right) < 0.005, f"P1's columns, within two: {right:.4f} of the orders, got {given:.4f}"
    return True


def kstar_noise(noise_of: Callable[[np.ndarray, np.ndarray], float], seed: int = 0) -> bool:
    """Exercise 3: the standard deviation of the noise, from the data."""
    rng = np.random.default_rng(seed)
    for n, noise in ((100, 0.1), (500, 0.5)):
        data = [LinearTask(2.0, n, noise).sample(rng) for _ in range(20)]
        given = np.mean([noise_of(x, y) for x, y, _ in data])
        naive = np.mean([np.sqrt(np.mean((y - x @ ols(x, y)) ** 2)) for x, y, _ in data])
        assert not np.isclose(given, naive), f"n = {n}: the fit has used up 64 of the {n} examples in every output"
        assert np.isclose(given, noise, rtol=0.02), f"n = {n}: {given:.4f} on average, the noise is {noise}"
    return True


def kstar_price(best_rank: Callable[[LinearTask], int]) -> bool:
    """Exercise 4: the rank that minimises bias plus variance per free parameter."""
    ranks = np.arange(33)
    for name, task in paper_tasks():
        bias = np.append(np.cumsum(task.singular_values[::-1] ** 2)[::-1], 0.0)
        price = task.noise**2 / (task.n_samples - task.d_in - 1)
        right = int(np.argmin(bias + ranks * (task.d_in + task.d_out - ranks) * price))
        given = best_rank(task)
        assert given == right, f"{name}: rank {given} given, {right} expected; a mode k brings d_in + d_out - 2k - 1"
    return True
