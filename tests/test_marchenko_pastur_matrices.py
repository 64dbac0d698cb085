"""Edges, spikes, noise level and threshold: against formulae worked out by hand and against real random matrices."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from companion.marchenko_pastur import (
    MarchenkoPastur,
    edge_fluctuation,
    estimate_noise,
    gavish_donoho_threshold,
    noise_edge,
    spike_threshold,
    spiked_overlaps,
    spiked_singular_value,
)

pytestmark = pytest.mark.filterwarnings("error")

SHAPES = [(400, 200), (200, 400), (384, 384), (768, 64), (50, 40)]
shapes = st.tuples(st.integers(1, 2000), st.integers(1, 2000))
noises = st.floats(-3, 3).map(lambda e: 10.0**e)


def spiked_matrix(shape, strengths, noise, seed):
    """Noise plus a signal of singular values ``strengths`` in Haar-random directions; also the directions."""
    m, n = shape
    rng = np.random.default_rng(seed)
    u = np.linalg.qr(rng.standard_normal((m, len(strengths))))[0]
    v = np.linalg.qr(rng.standard_normal((n, len(strengths))))[0]
    return u * strengths @ v.T + noise * rng.standard_normal(shape), u, v


@pytest.mark.parametrize("shape", SHAPES)
def test_noise_edge_of_real_matrices(shape):
    tops = [np.linalg.norm(0.3 * np.random.default_rng(s).standard_normal(shape), 2) for s in range(10)]
    assert np.mean(tops) == pytest.approx(noise_edge(shape, 0.3), rel=0.03)


def test_largest_singular_value_is_tracy_widom():
    """Mean -1.2065 and standard deviation 1.2680 of the real Tracy-Widom law (Bornemann 2010)."""
    rng = np.random.default_rng(0)
    for shape in [(40, 90), (120, 30)]:
        centre, scale = edge_fluctuation(shape, 2.0)
        tops = np.linalg.svd(2.0 * rng.standard_normal((2000, *shape)), compute_uv=False)[:, 0]
        z = (tops - centre) / scale
        assert z.mean() == pytest.approx(-1.2065, abs=0.12)
        assert z.std() == pytest.approx(1.2680, abs=0.08)


def test_edge_fluctuation_by_hand():
    centre, scale = edge_fluctuation((1, 5), 2.0)
    assert centre == pytest.approx(2 * (np.sqrt(0.5) + np.sqrt(4.5)))
    assert scale == pytest.approx((1 / np.sqrt(0.5) + 1 / np.sqrt(4.5)) ** (1 / 3))
    assert edge_fluctuation((10_000, 2_500), 1.0)[0] == pytest.approx(150, rel=1e-4)


@settings(max_examples=80, deadline=None)
@given(shapes, noises, st.floats(-3, 6).map(lambda e: 10.0**e))
def test_spikes_in_formulae(shape, noise, strength):
    m, n = shape
    threshold, edge = spike_threshold(shape, noise), noise_edge(shape, noise)
    assert threshold == pytest.approx(noise * (m * n) ** 0.25)
    s = strength * threshold
    seen = spiked_singular_value(s, shape, noise)
    if strength > 1:
        assert seen == pytest.approx(np.sqrt((s**2 + m * noise**2) * (s**2 + n * noise**2)) / s, rel=1e-12)
        assert seen >= max(s, edge) * (1 - 1e-14)
    else:
        assert seen == pytest.approx(edge, rel=1e-14)
    left, right = spiked_overlaps(s, shape, noise)
    assert 0 <= left <= 1 and 0 <= right <= 1 and (m >= n or left >= right)
    assert (left == 0) == (strength <= 1) or strength == pytest.approx(1)
    swapped = spiked_overlaps(s, (n, m), noise)
    assert swapped == pytest.approx((right, left)) and spiked_singular_value(s, (n, m), noise) == pytest.approx(seen)
    bigger = spiked_singular_value([s, 1.01 * s], shape, noise)
    assert bigger[1] >= bigger[0]


@settings(max_examples=40, deadline=None)
@given(shapes, noises, noises)
def test_everything_scales_with_the_noise(shape, noise, factor):
    for function in (noise_edge, spike_threshold, gavish_donoho_threshold):
        assert function(shape, factor * noise) == pytest.approx(factor * function(shape, noise))
        assert function(shape, noise) == pytest.approx(function(shape[::-1], noise))
    assert edge_fluctuation(shape, factor) == pytest.approx(np.multiply(factor, edge_fluctuation(shape, 1.0)))


def test_without_noise_the_signal_is_seen_as_it_is():
    s = np.array([0.0, 1.0, 7.0])
    assert spiked_singular_value(s, (4, 3), 0.0).tolist() == s.tolist()
    assert [o.tolist() for o in spiked_overlaps(s, (4, 3), 0.0)] == [[0, 1, 1], [0, 1, 1]]
    assert (noise_edge((4, 3), 0), spike_threshold((4, 3), 0), edge_fluctuation((4, 3), 0)) == (0, 0, (0, 0))
    assert type(spiked_singular_value(1, (4, 3), 0)) is float and type(spiked_overlaps(1, (4, 3), 1)[0]) is float
    assert spiked_singular_value([1e300, 0.0], (4, 3), 1e-300).tolist() == pytest.approx([1e300, 0])


@pytest.mark.parametrize("shape", [(400, 200), (150, 600), (384, 384)])
@pytest.mark.parametrize("strength", [0.5, 1.4, 3.0])
def test_spikes_in_real_matrices(shape, strength):
    s = strength * spike_threshold(shape, 0.7)
    top, left, right = [], [], []
    for seed in range(12):
        matrix, u, v = spiked_matrix(shape, [s], 0.7, seed)
        uu, ss, vv = np.linalg.svd(matrix, full_matrices=False)
        top.append(ss[0]), left.append((uu[:, 0] @ u[:, 0]) ** 2), right.append((vv[0] @ v[:, 0]) ** 2)
    assert np.mean(top) == pytest.approx(spiked_singular_value(s, shape, 0.7), rel=0.015)
    assert (np.mean(left), np.mean(right)) == pytest.approx(spiked_overlaps(s, shape, 0.7), abs=0.08)


@pytest.mark.parametrize("shape, tolerance", [*((shape, 0.02) for shape in SHAPES[:3]), (SHAPES[3], 0.03), (SHAPES[4], 0.14)])
@pytest.mark.parametrize("strength", [0.0, 1.05, 1.2, 1.5, 2.0, 10.0, 100.0])
def test_noise_under_five_percent_of_spikes(shape, tolerance, strength):
    count = max(1, round(0.05 * min(shape)))
    errors = []
    for seed in range(8):
        matrix, _, _ = spiked_matrix(shape, np.full(count, strength * spike_threshold(shape, 0.7)), 0.7, seed)
        errors.append(estimate_noise(np.linalg.svd(matrix, compute_uv=False), shape) / 0.7 - 1)
    assert np.max(np.abs(errors)) < tolerance
    assert abs(np.mean(errors)) < max(0.012, tolerance / 4)


def test_iteration_beats_the_plain_median():
    shape, plain, iterated = (400, 200), [], []
    for seed in range(10):
        matrix, _, _ = spiked_matrix(shape, np.full(10, 50.0 * spike_threshold(shape, 1.0)), 1.0, seed)
        s = np.linalg.svd(matrix, compute_uv=False)
        plain.append(np.median(s) / np.sqrt(400 * MarchenkoPastur(0.5).ppf(0.5)) - 1)
        iterated.append(estimate_noise(s, shape) - 1)
    assert np.mean(plain) > 0.015 > 4 * abs(np.mean(iterated)) - 0.005


def test_noise_estimate_is_exact_on_the_law_itself():
    """Quantiles of the law instead of a sample: no randomness, no bias."""
    shape = (900, 300)
    law = MarchenkoPastur(1 / 3, 0.5**2)
    s = np.sqrt(900 * law.ppf((np.arange(300) + 0.5) / 300))
    assert estimate_noise(s, shape) == pytest.approx(0.5, rel=1e-3)
    assert estimate_noise(s[::-1], shape[::-1]) == estimate_noise(s, shape)
    assert estimate_noise(3 * s, shape) == pytest.approx(3 * estimate_noise(s, shape))


def test_what_stands_two_fluctuations_above_the_edge_is_removed():
    shape = (60, 30)
    bulk = np.sqrt(60 * MarchenkoPastur(0.5).ppf((np.arange(29) + 0.5) / 29.5))
    noise = float(np.median(np.append(bulk, 99.0))) / np.sqrt(60 * MarchenkoPastur(0.5).ppf(0.5))
    centre, scale = edge_fluctuation(shape, noise)
    kept = estimate_noise(np.append(bulk, centre + 1.95 * scale), shape)
    removed = estimate_noise(np.append(bulk, centre + 2.05 * scale), shape)
    assert kept == pytest.approx(noise) and removed < 0.99 * noise


def test_degenerate_spectra():
    assert estimate_noise(np.zeros(5), (5, 9)) == 0.0
    assert estimate_noise([3.0], (1, 1)) > 0 and estimate_noise([3.0], (1, 400)) == pytest.approx(3 / 20, rel=0.01)
    assert estimate_noise([5.0, 1.0, 0.0, 0.0, 0.0], (5, 5)) == 0.0  # rank 2 and no noise
    assert estimate_noise(np.geomspace(1, 1e-12, 40), (40, 40)) >= 0  # decays all the way: an answer, no loop
    assert estimate_noise(np.arange(6), (6, 6)) > 0


def test_gavish_donoho_constants():
    assert gavish_donoho_threshold((100, 100), noise=1.0) == pytest.approx(10 * 4 / np.sqrt(3))
    assert gavish_donoho_threshold((7, 7), singular_values=np.full(7, 2.0)) == pytest.approx(2 * 2.858, abs=1e-3)
    # beta = 0.5: table in the paper's supplement, lambda 1.9 + ..., omega 2.1711
    assert gavish_donoho_threshold((20, 10), singular_values=np.ones(10)) == pytest.approx(2.1711, abs=2e-3)
    assert gavish_donoho_threshold((1, 10**8), noise=1.0) == pytest.approx(np.sqrt(2) * 1e4, rel=1e-3)
    assert gavish_donoho_threshold((9, 4), noise=0.0) == 0.0


@settings(max_examples=40, deadline=None)
@given(shapes)
def test_threshold_lies_where_keeping_costs_what_dropping_costs(shape):
    """Keeping an observed y costs y^2 + s^2 - 2 s y overlap, dropping it costs s^2: equal at the best threshold."""
    y = gavish_donoho_threshold(shape, noise=1.0)
    assert y > noise_edge(shape, 1.0)
    low, high = spike_threshold(shape, 1.0), y
    for _ in range(100):  # bisect for the signal that shows up at y
        middle = (low + high) / 2
        low, high = (middle, high) if spiked_singular_value(middle, shape, 1.0) < y else (low, middle)
    left, right = spiked_overlaps(low, shape, 1.0)
    assert y**2 - 2 * low * y * np.sqrt(left * right) == pytest.approx(0, abs=1e-6 * y**2)


@pytest.mark.parametrize("function", [noise_edge, spike_threshold, edge_fluctuation, gavish_donoho_threshold])
def test_shape_and_noise_are_checked(function):
    for shape in [(0, 3), (3,), (1, 2, 3), (2.0, 3), (True, 3), 5, None, (-1, 2)]:
        with pytest.raises(ValueError, match="shape must be a pair of integers >= 1"):
            function(shape, 1.0)
    for noise, error in [(-1.0, ValueError), (np.nan, ValueError), (np.inf, ValueError), ("1", TypeError)]:
        with pytest.raises(error, match="noise must be"):
            function((3, 4), noise)
    assert np.all(np.isfinite(function((np.int64(3), 4), np.float32(1))))


@pytest.mark.parametrize("function", [spiked_singular_value, spiked_overlaps])
def test_signals_are_checked(function):
    for signal, error in [(-1.0, ValueError), ([1, np.nan], ValueError), (np.inf, ValueError), ("1", TypeError)]:
        with pytest.raises(error, match="signal must"):
            function(signal, (3, 4), 1.0)
    with pytest.raises(ValueError, match="noise must be"):
        function(1.0, (3, 4), -1.0)
    with pytest.raises(ValueError, match="shape must be"):
        function(1.0, (3, 0), 1.0)


def test_spectra_are_checked():
    for check in (estimate_noise, lambda s, shape: gavish_donoho_threshold(shape, singular_values=s)):
        for s in ([1.0, 2.0], np.ones(4), np.ones((3, 1)), 1.0):
            with pytest.raises(ValueError, match="singular_values must be all 3 of a"):
                check(s, (3, 5))
        for s in ([1, 2, -1], [1, 2, np.nan], [1, 2, np.inf]):
            with pytest.raises(ValueError, match="singular_values must"):
                check(s, (3, 5))
        with pytest.raises(TypeError, match="singular_values must hold real numbers"):
            check([1j, 1, 1], (3, 5))
    for arguments in ({}, {"noise": 1.0, "singular_values": np.ones(3)}):
        with pytest.raises(ValueError, match="exactly one of noise and singular_values"):
            gavish_donoho_threshold((3, 5), **arguments)
