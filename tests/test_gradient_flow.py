"""The exact flow: against integration, 60-digit arithmetic and its own laws, over shapes, ranks, spectra and starts."""

import tracemalloc

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from companion import gradient_flow
from companion.flow_numerics import integrate
from companion.gradient_flow import ExactFlow, balance, balance_defect
from companion.scalar_flow import crossing_times, late_rate
from flow_problems import STRENGTHS, frame, with_spectrum

pytestmark = pytest.mark.filterwarnings("error")

LEVELS = [0.3, 0.5, 1.0, 1.0, 2.0, 3.3]


@st.composite
def problems(draw, kinds=("lora", "reversed", "both", "symmetric"), scales=(-8.0, 1.0)):
    """Target and balanced start: P2's, P2's with A and B exchanged, both factors nonzero with c > 0, < 0 or 0."""
    m, n = draw(st.integers(1, 9)), draw(st.integers(1, 9))
    kind, eps = draw(st.sampled_from(kinds)), 10.0 ** draw(st.floats(*scales))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    target = with_spectrum(rng, m, n, draw(st.lists(st.sampled_from(LEVELS), max_size=min(m, n))))
    if kind == "lora":
        r = draw(st.integers(1, m))
        return target, eps * frame(rng, m, r), np.zeros((r, n))
    if kind == "reversed":
        r = draw(st.integers(1, n))
        return target, np.zeros((m, r)), eps * frame(rng, n, r).T
    r = draw(st.integers(1, min(m, n)))
    own, size = frame(rng, r, r), rng.uniform(0, 2, r)
    c = eps**2 if kind == "both" else 0.0
    a, b = frame(rng, m, r) * np.hypot(size, np.sqrt(c)) @ own, own.T @ np.diag(size) @ frame(rng, n, r).T
    return (target.T, b.T, a.T) if draw(st.booleans()) else (target, a, b)


times = st.lists(st.floats(0, 20), min_size=1, max_size=4).map(sorted)


def exact_update(target, a0, b0, time, digits=300):
    """The solution with the full matrix exponential at many digits, in one step and without any reduction."""
    with mpmath.workdps(digits):
        (m, n), r = target.shape, a0.shape[1]
        half = mpmath.mpf(float(np.sum(a0**2) - np.sum(b0**2))) / (2 * r)
        generator = mpmath.zeros(m + n)
        for i in range(m + n):
            generator[i, i] = half if i < m else -half
        for i in range(m):
            for j in range(n):
                generator[i, m + j] = generator[m + j, i] = mpmath.mpf(float(target[i, j]))
        rates, vectors = mpmath.eigsy(generator)
        q = vectors.T * mpmath.matrix(np.vstack([a0, b0.T]).tolist())
        integral = [mpmath.expm1(2 * w * time) / (2 * w) if w else mpmath.mpf(time) for w in rates]
        inner = mpmath.eye(r) + q.T * mpmath.diag(integral) * q
        grown = vectors * mpmath.diag([mpmath.exp(w * time) for w in rates]) * q
        whole = grown * mpmath.inverse(inner) * grown.T
        return np.array(whole.tolist(), dtype=float)[:m, m:]


# --- The solution. ---------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(problems(), times)
def test_agrees_with_integration(problem, times):
    flow, path = ExactFlow(*problem), integrate(*problem, times, rtol=1e-12)
    assert np.abs(flow.update(times) - path.updates()).max() < 1e-8
    assert np.abs(flow.singular_values(times) - path.singular_values()).max() < 1e-8


@pytest.mark.parametrize("rank", [2, 3, 5])
@pytest.mark.parametrize("eps", [1e-8, 1e-3, 1.0, 10.0])
@pytest.mark.parametrize("strengths", [(3.0, 2.0, 0.5), (1.0, 1.0, 0.01), (1.0, 0.99, 0.98)])
def test_agrees_with_many_digits(rank, eps, strengths):
    rng = np.random.default_rng(rank)
    target, a0 = with_spectrum(rng, 6, 5, strengths), eps * frame(rng, 6, rank)
    flow = ExactFlow(target, a0)
    for time in (1.0, 12.0, 40.0):
        reference = exact_update(target, a0, np.zeros((rank, 5)), time)
        assert np.abs(flow.update(time) - reference).max() < 1e-11 * (1 + np.abs(reference).max())


@settings(max_examples=8, deadline=None)
@given(problems(kinds=("both", "symmetric")), st.floats(0.1, 20))
def test_agrees_with_many_digits_from_two_factors(problem, time):
    reference = exact_update(*problem, time)
    assert np.abs(ExactFlow(*problem).update(time) - reference).max() < 1e-10 * (1 + np.abs(reference).max())


@settings(max_examples=100, deadline=None)
@given(problems(), times, st.floats(0, 10))
def test_stopping_on_the_way_changes_nothing(problem, times, pause):
    flow = ExactFlow(*problem)
    later = flow.update(np.add(times, pause))
    again = ExactFlow(problem[0], *flow.factors(pause), tolerance=1e-6).update(times)
    assert np.abs(later - again).max() < 1e-8


@settings(max_examples=100, deadline=None)
@given(problems(), times)
def test_balance_is_kept(problem, times):
    flow = ExactFlow(*problem)
    a, b = flow.factors(times)
    size = np.maximum(1, np.sum(a**2, axis=(1, 2)))
    drift = np.abs(balance(a, b) - flow.constant * np.eye(a.shape[-1])).max(axis=(1, 2))
    assert np.all(drift < 1e-12 * size)
    assert np.abs(a @ b - flow.update(times)).max() < 1e-12 * size.max()


@settings(max_examples=100, deadline=None)
@given(problems(), times)
def test_loss_never_increases(problem, times):
    flow = ExactFlow(*problem)
    error = flow.error([0.0, *times])
    assert np.all(np.diff(error) <= 1e-12 * (1 + error[0]))
    assert error[-1] == pytest.approx(np.linalg.norm(flow.update(times[-1]) - problem[0]), abs=1e-11 * (1 + error[0]))


@settings(max_examples=60, deadline=None)
@given(problems(scales=(-3.0, 0.5)), st.floats(0, 5), st.floats(0.1, 10))
def test_units(problem, time, unit):
    """A target ``unit`` times as large is learned ``unit`` times as fast from a start sqrt(unit) times as large."""
    target, a0, b0 = problem
    scaled = ExactFlow(unit * target, np.sqrt(unit) * a0, np.sqrt(unit) * b0)
    expected = unit * ExactFlow(*problem).update(time)
    assert np.abs(scaled.update(time / unit) - expected).max() < 1e-8 * (1 + np.abs(expected).max())


@settings(max_examples=60, deadline=None)
@given(problems(), times)
def test_exchanging_the_factors_transposes(problem, times):
    target, a0, b0 = problem
    flow, other = ExactFlow(*problem), ExactFlow(target.T, b0.T, a0.T)
    assert other.constant == pytest.approx(-flow.constant)
    assert np.abs(other.update(times) - np.swapaxes(flow.update(times), 1, 2)).max() < 1e-8


@settings(max_examples=40, deadline=None)
@given(problems(), st.integers(0, 2**32 - 1), times)
def test_larger_matrices_change_nothing(problem, seed, times):
    """The same problem inside larger matrices, turned: the singular values and amplitudes are the same."""
    target, a0, b0 = problem
    rng, (m, n) = np.random.default_rng(seed), target.shape
    left, right = frame(rng, m + 7, m), frame(rng, n + 4, n)
    flow, large = ExactFlow(*problem), ExactFlow(left @ target @ right.T, left @ a0, b0 @ right.T, tolerance=1e-9)
    values = flow.singular_values(times)
    assert np.abs(large.singular_values(times)[:, : values.shape[1]] - values).max() < 1e-8


@settings(max_examples=60, deadline=None)
@given(problems(), times)
def test_spectra_and_amplitudes_are_those_of_the_update(problem, times):
    target, a0, b0 = problem
    flow = ExactFlow(*problem)
    update, values = flow.update(times), flow.singular_values(times)
    assert values.shape == (len(times), min(*target.shape, a0.shape[1]))
    assert np.abs(np.linalg.svd(update, compute_uv=False)[:, : values.shape[1]] - values).max() < 1e-11
    modes = np.einsum("ms,tmn,ns->ts", flow.left, update, flow.right)
    assert flow.mode_amplitudes(times).shape == (len(times), flow.strengths.size)
    assert np.abs(flow.mode_amplitudes(times) - modes).max(initial=0) < 1e-11


def test_one_time_has_no_time_axis():
    flow = ExactFlow(np.diag([2.0, 1.0]), 0.1 * np.eye(2))
    assert flow.update(1.0).shape == (2, 2)
    assert flow.singular_values(1.0).shape == flow.mode_amplitudes(1.0).shape == (2,)
    assert [x.shape for x in flow.factors(1.0)] == [(2, 2), (2, 2)]
    assert isinstance(flow.error(1.0), float)
    assert np.array_equal(flow.update(1.0), flow.update([1.0])[0])


# --- Where it ends. --------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(problems(kinds=("lora", "reversed"), scales=(-8.0, 0.0)))
def test_limit_is_the_best_approximation_of_that_rank(problem):
    target, a0, _ = problem
    flow, r = ExactFlow(*problem), a0.shape[1]
    u, s, vt = np.linalg.svd(target)
    s[r:] = 0
    k = s.size
    if r >= flow.strengths.size or flow.strengths[r] < 0.99 * flow.strengths[r - 1]:  # else the start chooses among equals
        assert np.abs(flow.limit() - (u[:, :k] * s) @ vt[:k]).max() < 1e-9
    assert np.linalg.norm(flow.limit() - target) == pytest.approx(np.linalg.norm(flow.strengths[r:]), abs=1e-9)


@settings(max_examples=40, deadline=None)
@given(problems(kinds=("lora", "reversed"), scales=(-8.0, 0.0)))
def test_late_times_are_the_limit_at_no_cost(problem):
    flow = ExactFlow(*problem)
    assert np.abs(flow.update(1e9) - flow.limit()).max() < 1e-9


def test_a_way_that_is_too_long_is_refused(monkeypatch):
    monkeypatch.setattr(gradient_flow, "MAX_STEPS", 1000)
    flow = ExactFlow(np.diag([1.0, 1 - 1e-6]), [[0.1], [0.1]])  # rank 1: the second mode gives way at rate 1e-6
    with pytest.raises(ValueError, match="times: 1e[+]07 more takes 1e[+]06 steps, M.t. is still moving; see limit"):
        flow.update(1e7)
    assert np.abs(flow.limit() - np.diag([1.0, 0.0])).max() < 1e-15


def test_way_to_peft():
    """The flow of PEFT's factors for the loss ||scaling B A - delta_W||^2 / 2, by hand, and the map to it."""
    rng, scaling, time, steps = np.random.default_rng(0), 2.0, 0.5, 20_000
    delta = with_spectrum(rng, 6, 8, [2.0, 1.0])  # out x in
    lora_a, lora_b = 0.3 * frame(rng, 8, 3).T, np.zeros((6, 3))
    flow = ExactFlow(delta.T, np.sqrt(scaling) * lora_a.T, np.sqrt(scaling) * lora_b.T)
    for _ in range(steps):
        pull = scaling * (delta - scaling * lora_b @ lora_a)
        lora_b, lora_a = lora_b + time / steps * pull @ lora_a.T, lora_a + time / steps * lora_b.T @ pull
    assert np.abs(flow.update(scaling * time).T - scaling * lora_b @ lora_a).max() < 1e-3


@pytest.mark.parametrize("missing", [0, 1, 2])
def test_a_mode_that_the_start_lacks_is_not_learned(missing):
    target, kept = np.diag([3.0, 2.0, 1.0]), [i for i in range(3) if i != missing]
    flow = ExactFlow(target, 0.1 * np.eye(3)[:, kept])
    expected = np.diag(np.where(np.arange(3) == missing, 0.0, np.diag(target)))
    assert np.abs(flow.limit() - expected).max() < 1e-15
    assert np.abs(flow.update(100.0) - expected).max() < 1e-12


def test_among_equal_strengths_the_start_decides():
    rng = np.random.default_rng(0)
    a0 = 1e-3 * frame(rng, 4, 2)
    flow = ExactFlow(np.eye(4), a0)
    assert np.abs(flow.limit() - a0 @ np.linalg.pinv(a0)).max() < 1e-12
    assert np.abs(flow.update(60.0) - flow.limit()).max() < 1e-12


def test_nothing_to_learn_and_nothing_to_learn_with():
    assert np.abs(ExactFlow(np.zeros((3, 2)), np.eye(3, 2)).update([0.0, 5.0])).max() == 0
    still = ExactFlow(np.diag([2.0, 1.0]), np.zeros((2, 1)))
    assert np.abs(still.update([0.0, 50.0])).max() == np.abs(still.limit()).max() == 0
    assert balance_defect(np.zeros((2, 1)), np.zeros((1, 2))) == 0


def test_surplus_singular_values_are_exactly_zero():
    rng = np.random.default_rng(3)
    flow = ExactFlow(with_spectrum(rng, 40, 30, [2.0, 1.0]), 0.5 * frame(rng, 40, 20))
    values = flow.singular_values(np.linspace(0, 20, 41))
    assert values.shape == (41, 20)
    assert np.all(values[:, 2:] == 0)
    assert values[-1, :2] == pytest.approx([2.0, 1.0], abs=1e-5)


@pytest.mark.parametrize(("eps", "rate"), [(1e-3, 0.5), (0.1, 0.495), (0.5, 0.390)])
def test_late_rate_of_the_error(eps, rate):
    """64 x 48, strengths 3, 2.2, 1.5, 0.9, 0.5, r = 10; fitted where the error is 1e-12 to 1e-8."""
    rng = np.random.default_rng(0)
    flow = ExactFlow(with_spectrum(rng, 64, 48, STRENGTHS), eps * frame(rng, 64, 10))
    times = np.linspace(0, 120, 1201)
    error = flow.error(times)
    late = (error < 1e-8) & (error > 1e-12)
    fitted = -np.polyfit(times[late], np.log(error[late]), 1)[0]
    assert fitted == pytest.approx(late_rate(0.5, eps**2), rel=1e-3)
    assert late_rate(0.5, eps**2) == pytest.approx(rate, abs=5e-4)


def test_curves_of_different_ranks_are_offset():
    """Earlier: half-error times 7.07, 6.90, 6.54, 6.11; 768 x 768, eps 1e-3; here one or two starts, within their spread."""
    strengths, times, rng = [2.0, 1.8, 1.5, 1.2, 1.0], np.linspace(0, 12, 601), np.random.default_rng(0)
    target = with_spectrum(rng, 768, 768, strengths)
    for rank, expected, spread in [(5, 7.07, 0.35), (10, 6.90, 0.2), (20, 6.54, 0.2), (50, 6.11, 0.05)]:
        errors = [ExactFlow(target, 1e-3 * frame(rng, 768, rank)).error(times) for _ in range(2 if rank < 50 else 1)]
        halves = [crossing_times(times, error, error[0] / 2) for error in errors]
        assert np.mean(halves) == pytest.approx(expected, abs=2 * spread)


# --- Cost. -----------------------------------------------------------------------------------------------------------


def test_memory_is_that_of_the_factors():
    rng = np.random.default_rng(0)
    m, n, r = 600, 500, 20
    flow = ExactFlow(with_spectrum(rng, m, n, [2.0, 1.0]), 0.01 * frame(rng, m, r))
    assert sum(x.nbytes for x in vars(flow).values() if isinstance(x, np.ndarray)) <= 3 * 8 * (m + n) * r
    tracemalloc.start()
    flow.singular_values(np.linspace(0, 10, 100))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak <= 3 * 8 * (m + n) * r


def test_steps_are_short_enough_for_the_cholesky_factor():
    assert gradient_flow.MAX_EXPONENT <= 8


# --- Balance. --------------------------------------------------------------------------------------------------------


def test_balance_of_stacks():
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((3, 5, 2)), rng.standard_normal((3, 2, 4))
    assert balance(a, b).shape == (3, 2, 2)
    assert np.allclose(balance(a, b)[1], a[1].T @ a[1] - b[1] @ b[1].T)
    assert np.allclose(balance_defect(a, b)[1], balance_defect(a[1], b[1]))
    assert balance_defect(a[0, :, :1], b[0, :1]) == 0  # rank 1 is always balanced


@pytest.mark.parametrize(("width", "rank", "printed"), [(384, 8, 0.34), (768, 8, 0.18), (768, 64, 0.67)])
def test_default_start_of_peft_is_not_balanced(width, rank, printed):
    """Measured earlier, one draw each; here the range of 20 draws of uniform entries, with its expectation."""
    bound = np.sqrt(1 / width)
    starts = [np.random.default_rng(seed).uniform(-bound, bound, (width, rank)) for seed in range(20)]
    defects = [balance_defect(a, np.zeros((rank, 3))) for a in starts]
    assert min(defects) - 0.04 < printed < max(defects) + 0.04
    edge = 2 * np.sqrt(rank / width) + rank / width
    assert 0.4 * edge < np.mean(defects) < 1.1 * edge
    with pytest.raises(ValueError, match=rf"not balanced.*relative {defects[0]:.2g}"):
        ExactFlow(np.zeros((width, 3)), starts[0])


def test_unbalanced_starts_can_be_looked_at():
    rng = np.random.default_rng(0)
    target, a0 = np.diag([2.0, 1.0, 0.5]), rng.standard_normal((3, 2))
    law = ExactFlow(target, a0, tolerance=np.inf).update([0.0, 1.0, 30.0])
    path = integrate(target, a0, None, [0.0, 1.0, 30.0]).updates()
    assert np.abs(law - path)[1].max() > 1e-3
    assert np.abs(law - path)[2].max() < 1e-6


# --- Errors. ---------------------------------------------------------------------------------------------------------

TARGET, START = np.diag([2.0, 1.0, 0.0, 0.0])[:, :3], 0.1 * np.eye(4, 2)
NAN = np.full((4, 3), np.nan)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((NAN, START), "target must hold no NaN"),
        ((np.zeros((0, 3)), START), "target must be a matrix"),
        ((TARGET, np.full((4, 2), np.inf)), "a0 must hold no NaN"),
        ((TARGET, np.zeros((4, 0))), r"a0 must be of shape \(m, r\) = \(4, r >= 1\).*got shape \(4, 0\)"),
        ((TARGET, np.eye(5, 2)), r"a0 must have shape \(m, r\) = \(4, r\).*got \(5, 2\)"),
        ((TARGET, np.eye(2, 4)), "lora_A.T"),
        ((TARGET, START, np.zeros((3, 3))), r"b0 must have shape \(r, n\) = \(2, 3\), got \(3, 3\)"),
        ((TARGET, START, np.full((2, 3), np.nan)), "b0 must hold no NaN"),
        ((TARGET, START + 0.1), "not balanced.*integrate"),
        ((TARGET, START, None, -1.0), "tolerance must be >= 0"),
    ],
)
def test_wrong_problems(arguments, message):
    with pytest.raises(ValueError, match=message):
        ExactFlow(*arguments)


@pytest.mark.parametrize("method", ["update", "factors", "singular_values", "mode_amplitudes", "error"])
@pytest.mark.parametrize(
    ("times", "message"),
    [
        ([-1.0, 2.0], "times must be >= 0, got -1"),
        ([1.0, 3.0, 2.0], "times must be sorted, got 3 before 2"),
        ([0.0, np.nan], "times must hold no NaN"),
        (np.inf, "times must hold no NaN and no infinity"),
        ([[0.0, 1.0]], r"times must be one number or one dimension of them, got shape \(1, 2\)"),
        ([], "times must be"),
    ],
)
def test_wrong_times(method, times, message):
    with pytest.raises(ValueError, match=message):
        getattr(ExactFlow(TARGET, START), method)(times)


def test_words_are_no_numbers():
    with pytest.raises(TypeError, match="target must hold real numbers"):
        ExactFlow([["a"]], [[1.0]])


@pytest.mark.parametrize("function", [balance, balance_defect])
@pytest.mark.parametrize(("a", "b"), [(np.eye(3), np.eye(2)), (np.ones(3), np.eye(3)), (np.zeros((3, 0)), np.zeros((0, 3)))])
def test_factors_that_do_not_multiply(function, a, b):
    with pytest.raises(ValueError, match=r"a must have shape \(..., m, r\) and b \(..., r, n\)"):
        function(a, b)
