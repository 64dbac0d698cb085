"""The Marchenko-Pastur law: against quadrature, mpmath, its own symmetries and real random matrices."""

import dataclasses
import warnings

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import kstest

from companion.marchenko_pastur import MarchenkoPastur

pytestmark = pytest.mark.filterwarnings("error")

RATIOS = [0.01, 0.5, 1.0, 2.0, 4.0, 50.0]
WIDE = [1e-8, 1e-3, 0.01, 0.0015999, 0.0016001, 0.5, 0.9999999, 1.0, 1.0001, 2.0, 4.0, 50.0, 1e4]
ratios = st.floats(-4, 4).map(lambda e: 10.0**e)
variances = st.floats(-3, 3).map(lambda e: 10.0**e)
probabilities = st.floats(0, 1)


def integrate(law, moment=0, upper=None):
    """Integral of x^moment pdf(x), edges folded away by x = midpoint - halfwidth cos(t)."""
    a, b = law.support
    half = (b - a) / 2
    end = np.pi if upper is None else float(np.arccos(np.clip((a + half - upper) / half, -1, 1)))

    def integrand(t):
        x = a + 2 * half * np.sin(t / 2) ** 2
        return x**moment * law.pdf(x) * half * np.sin(t)

    gap = abs(1 - law.ratio) / (1 + np.sqrt(law.ratio)) ** 2  # near ratio 1 the integrand bends at this angle
    cuts = [0, *(t for t in gap * 10.0 ** np.arange(-1, 9) if 0 < t < end), end]
    return sum(quad(integrand, *ends, epsabs=1e-12, epsrel=1e-11, limit=400)[0] for ends in zip(cuts, cuts[1:]))


def reference_cdf(ratio, x):
    """The law at 30 digits, written from the density in x, not from the closed form under test."""
    with mpmath.workdps(30):
        c, x = mpmath.mpf(ratio), mpmath.mpf(x)
        a, b = (1 - mpmath.sqrt(c)) ** 2, (1 + mpmath.sqrt(c)) ** 2

        def integrand(t):  # x = a + (b - a) sin(t)^2
            y = a + (b - a) * mpmath.sin(t) ** 2
            return (b - a) ** 2 * mpmath.sin(2 * t) ** 2 / (4 * mpmath.pi * c * y) if y else 2 * (b - a) / mpmath.pi

        end = mpmath.asin(mpmath.sqrt((x - a) / (b - a)))
        cuts = [end * mpmath.mpf(10) ** -k for k in range(9, -1, -1)]
        return max(0, 1 - 1 / c) + mpmath.quad(integrand, [mpmath.mpf(10) ** -25, *cuts])


@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize("variance", [1.0, 0.3])
def test_mass_and_moments(ratio, variance):
    law = MarchenkoPastur(ratio, variance)
    assert law.atom + integrate(law) == pytest.approx(1, abs=1e-8)
    assert integrate(law, 1) == pytest.approx(law.mean, rel=1e-8)
    assert integrate(law, 2) - law.mean**2 == pytest.approx(law.var, rel=1e-7)
    assert (law.mean, law.var) == (variance, ratio * variance * variance)


@settings(max_examples=40, deadline=None)
@given(ratios, variances)
def test_mass_and_mean_at_random_parameters(ratio, variance):
    law = MarchenkoPastur(ratio, variance)
    assert law.atom + integrate(law) == pytest.approx(1, abs=1e-8)
    assert integrate(law, 1) == pytest.approx(variance, rel=1e-8)


@settings(max_examples=40, deadline=None)
@given(ratios, st.floats(0.001, 0.999))
def test_cdf_is_the_integral_of_the_pdf(ratio, where):
    law = MarchenkoPastur(ratio)
    a, b = law.support
    x = a + where * (b - a)
    assert law.cdf(x) == pytest.approx(law.atom + integrate(law, upper=x), abs=1e-8)


@pytest.mark.parametrize("ratio", WIDE)
@pytest.mark.parametrize("where", [1e-4, 0.03, 0.5, 0.9, 0.9999])
def test_cdf_against_mpmath(ratio, where):
    law = MarchenkoPastur(ratio)
    a, b = law.support
    x = a + where * (b - a)
    tolerance = 1e-14 + 4e-16 / np.sqrt(ratio)  # the last bit of x is worth about 1e-16/sqrt(ratio) in probability
    assert law.cdf(x) == pytest.approx(float(reference_cdf(ratio, x)), abs=tolerance)


@pytest.mark.parametrize("ratio", WIDE)
def test_ppf_inverts_cdf(ratio):
    law = MarchenkoPastur(ratio)
    q = np.linspace(0, 1, 201)
    assert np.allclose(law.cdf(law.ppf(q)), np.maximum(q, law.atom), atol=1e-14 + 1e-16 / np.sqrt(ratio), rtol=0)
    assert np.all(np.diff(law.ppf(q)) >= 0)


@settings(max_examples=60, deadline=None)
@given(ratios, variances, probabilities)
def test_ppf_inverts_cdf_at_random(ratio, variance, q):
    law = MarchenkoPastur(ratio, variance)
    x = law.ppf(q)
    assert law.cdf(x) == pytest.approx(max(q, law.atom), abs=2e-13)
    assert x == 0 or law.support[0] <= x <= law.support[1]


@settings(max_examples=60, deadline=None)
@given(ratios, st.lists(st.floats(-1, 5, allow_subnormal=False), min_size=2, max_size=20))
def test_cdf_grows(ratio, relative):
    law = MarchenkoPastur(ratio)
    x = np.sort(relative) * law.support[1]
    assert np.all(np.diff(law.cdf(x)) >= -1e-15)
    assert np.all((law.cdf(x) >= 0) & (law.cdf(x) <= 1))


@settings(max_examples=60, deadline=None)
@given(ratios, variances, st.floats(0.01, 0.99))
def test_scaling(ratio, variance, where):
    unit, law = MarchenkoPastur(ratio), MarchenkoPastur(ratio, variance)
    a, b = unit.support
    x = a + where * (b - a)
    assert law.support == pytest.approx((variance * a, variance * b), rel=1e-13)
    assert law.cdf(variance * x) == pytest.approx(unit.cdf(x), abs=1e-11)
    assert law.pdf(variance * x) * variance == pytest.approx(unit.pdf(x), rel=1e-9)
    assert law.ppf(where) == pytest.approx(variance * unit.ppf(where), rel=1e-12)


@settings(max_examples=60, deadline=None)
@given(st.floats(1.0001, 1e4), st.floats(0.01, 0.99))
def test_duality_of_tall_and_wide(ratio, q):
    """X X'/n and X'X/p share their non-zero eigenvalues up to the factor n/p."""
    tall, wide = MarchenkoPastur(ratio), MarchenkoPastur(1 / ratio)
    assert tall.ppf(tall.atom + q / ratio) == pytest.approx(ratio * wide.ppf(q), rel=1e-9)
    x = wide.ppf(q)
    assert tall.pdf(ratio * x) * ratio == pytest.approx(wide.pdf(x) / ratio, rel=1e-6)


@pytest.mark.parametrize("ratio", WIDE)
def test_exact_at_the_edges(ratio):
    law = MarchenkoPastur(ratio, 0.7)
    a, b = law.support
    assert law.cdf([-np.inf, -1.0, b, np.inf]).tolist() == [0, 0, 1, 1]
    assert law.cdf(a) == law.cdf(np.nextafter(a, 0) if a else 0.0) == law.cdf(0.0 if ratio > 1 else a) == law.atom
    assert law.ppf(1) == b and law.ppf(0) == (a if ratio <= 1 else 0)
    assert law.ppf(law.atom) == (0 if ratio > 1 else a)
    assert law.pdf([-np.inf, -1.0, b, np.inf]).tolist() == [0, 0, 0, 0]
    assert law.pdf(a) == (np.inf if ratio == 1 else 0)
    assert law.atom == max(0, 1 - 1 / ratio)


def test_square_case_has_closed_forms():
    law = MarchenkoPastur(1.0)
    x = np.array([0.5, 2.0, 3.0])
    assert np.allclose(law.pdf(x), np.sqrt((4 - x) / x) / (2 * np.pi), rtol=1e-14)
    theta = np.arccos(1 - x / 2)
    assert np.allclose(law.cdf(x), (theta + np.sin(theta)) / np.pi, atol=1e-15)
    median = mpmath.findroot(lambda t: t + mpmath.sin(t) - mpmath.pi / 2, 0.8)
    assert law.ppf(0.5) == pytest.approx(float(2 - 2 * mpmath.cos(median)), abs=1e-15)
    assert 4 / np.sqrt(3 * law.ppf(0.5)) == pytest.approx(2.858, abs=5e-4)  # Gavish and Donoho


@pytest.mark.parametrize("ratio, variance", [(1e-300, 1.0), (1e300, 1.0), (1.0, 1e-308), (0.5, 1e300), (2.0, 1e-300)])
def test_extreme_parameters_stay_quiet(ratio, variance):
    law = MarchenkoPastur(ratio, variance)
    x = np.array([0.0, 5e-324, 1e-300, variance, *law.support, 1e308])
    assert not np.any(np.isnan(law.pdf(x)))
    assert np.all((law.cdf(x) >= 0) & (law.cdf(x) <= 1))
    assert law.ppf(1) == law.support[1]


def test_shapes_and_types():
    law = MarchenkoPastur(0.5)
    for method in (law.pdf, law.cdf, law.ppf):
        assert type(method(0.5)) is float and type(method(np.float32(0.5))) is float and type(method(1)) is float
        assert method([[0.1, 0.2, 0.3]]).shape == (1, 3)
        assert method(np.array([])).shape == (0,)
    assert type(law.rvs(None, 0)) is float and law.rvs((2, 3), 0).shape == (2, 3)
    with pytest.raises(dataclasses.FrozenInstanceError):
        law.ratio = 2.0
    assert MarchenkoPastur(1) == MarchenkoPastur(1.0, 1.0) and MarchenkoPastur(np.float64(2)).ratio == 2


@pytest.mark.parametrize("ratio", [0.01, 0.5, 1.0, 4.0])
def test_draws_follow_the_law(ratio):
    law = MarchenkoPastur(ratio, 2.0)
    draws = law.rvs(20_000, 7)
    zero = draws == 0
    assert zero.mean() == pytest.approx(law.atom, abs=0.01)
    assert kstest(draws[~zero], lambda x: (law.cdf(x) - law.atom) / (1 - law.atom)).pvalue > 0.01
    assert draws.mean() == pytest.approx(law.mean, abs=5 * np.sqrt(law.var / len(draws)))


def test_draws_repeat():
    law = MarchenkoPastur(2.0)
    assert np.array_equal(law.rvs(50, 3), law.rvs(50, np.random.default_rng(3)))
    assert not np.array_equal(law.rvs(50, 3), law.rvs(50, 4))
    rng = np.random.default_rng(3)
    assert not np.array_equal(law.rvs(50, rng), law.rvs(50, rng))


@pytest.mark.parametrize("p, n", [(300, 1200), (600, 600), (800, 200)])
def test_a_real_noise_matrix_follows_the_law(p, n):
    noise = 1.5 * np.random.default_rng(p).standard_normal((p, n))
    eigenvalues = np.linalg.eigvalsh(noise @ noise.T / n)
    eigenvalues[: max(0, p - n)] = 0.0  # exact zeros up to rounding
    law = MarchenkoPastur(p / n, 1.5**2)
    x = np.concatenate(([0.0], np.linspace(*law.support, 200)))
    empirical = np.searchsorted(np.sort(eigenvalues), x, side="right") / p
    assert np.max(np.abs(empirical - law.cdf(x))) < 0.01


@pytest.mark.parametrize(
    "arguments, error, words",
    [
        ((0.0,), ValueError, "ratio must be positive"),
        ((-1,), ValueError, "ratio must be positive"),
        ((np.nan,), ValueError, "ratio must be finite"),
        ((np.inf,), ValueError, "ratio must be finite"),
        (("2",), TypeError, "ratio must be a real number"),
        ((True,), TypeError, "ratio must be a real number"),
        ((None,), TypeError, "ratio must be a real number"),
        ((1.0, 0.0), ValueError, "variance must be positive"),
        ((1.0, np.nan), ValueError, "variance must be finite"),
        ((1.0, [1.0]), TypeError, "variance must be a real number"),
        ((1e200, 1e200), ValueError, "overflows"),
    ],
)
def test_parameters_are_checked(arguments, error, words):
    with pytest.raises(error, match=words):
        MarchenkoPastur(*arguments)


def test_arguments_are_checked():
    law = MarchenkoPastur(2.0)
    for method in (law.pdf, law.cdf):
        with pytest.raises(ValueError, match="x must hold no NaN"):
            method([0.0, np.nan])
        with pytest.raises(TypeError, match="x must hold real numbers"):
            method(1j)
    with pytest.raises(ValueError, match="q must hold no NaN"):
        law.ppf(np.nan)
    for q in (-1e-9, 1 + 1e-9, [0.5, 2.0]):
        with pytest.raises(ValueError, match=r"q must lie in \[0, 1\]"):
            law.ppf(q)
    with pytest.raises(TypeError, match="q must hold real numbers"):
        law.ppf("half")
    for rng in (None, 1.5, True, np.random.RandomState(0)):
        with pytest.raises(TypeError, match="rng must be"):
            law.rvs(3, rng)


def test_nothing_needs_a_filter():
    """The whole range of arguments in one sweep, under the strictest floating-point settings."""
    with warnings.catch_warnings(), np.errstate(divide="raise", invalid="raise"):
        warnings.simplefilter("error")
        for ratio in np.geomspace(1e-12, 1e12, 49):
            law = MarchenkoPastur(ratio)
            x = np.linspace(-1, 1.2 * law.support[1], 97)
            law.pdf(x), law.cdf(x), law.ppf(np.linspace(0, 1, 33))
