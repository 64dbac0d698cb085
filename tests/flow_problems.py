"""Targets and starts for the tests of the flow of A B."""

import numpy as np

STRENGTHS = np.array([3.0, 2.2, 1.5, 0.9, 0.5])  # of the tables


def frame(rng, m, r):
    """m x r with orthonormal columns."""
    return np.linalg.qr(rng.standard_normal((m, r)))[0]


def with_spectrum(rng, m, n, strengths):
    """m x n with these singular values and Haar singular vectors."""
    s = len(strengths)
    return frame(rng, m, s) @ np.diag(strengths) @ frame(rng, n, s).T if s else np.zeros((m, n))


def lora_problem(seed, m, n, r, eps, strengths=STRENGTHS):
    """Target and P2's A(0)."""
    rng = np.random.default_rng(seed)
    return with_spectrum(rng, m, n, strengths), eps * frame(rng, m, r)
