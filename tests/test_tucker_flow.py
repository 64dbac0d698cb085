"""The flow of core and factors: its equations, what it conserves, its scalar law, recovery, and P2's lemma F.1."""

import mpmath
import numpy as np
import pytest
import tensorly
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.integrate import solve_ivp

from companion.balance import balance_defect
from companion.flow_numerics import integrate as integrate_product
from companion.scalar_flow import activation_times, crossing_times, scalar_flow
from companion.tucker import Tucker, hosvd, unfolding_ranks
from companion.tucker_flow import descend, integrate, start_point, tucker_balance, tucker_balance_defect
from companion.tucker_law import coupling, gram_defect, tucker_half_time, tucker_scalar_flow
from companion.tucker_recovery import Recovery, recover
from flow_problems import frame

pytestmark = pytest.mark.filterwarnings("error")
seeds = st.integers(0, 2**32 - 1)


@st.composite
def sizes(draw):
    dims = tuple(draw(st.lists(st.integers(1, 4), min_size=2, max_size=4)))
    return dims, tuple(draw(st.integers(1, d)) for d in dims)


def any_point(rng, dims, ranks):
    return Tucker(rng.standard_normal(ranks), tuple(rng.standard_normal(s) for s in zip(dims, ranks, strict=True)))


def planted(seed, dims, ranks, norm=1.0):
    """Orthonormal factors and a Gaussian core."""
    rng = np.random.default_rng(seed)
    x = Tucker(rng.standard_normal(ranks), tuple(frame(rng, d, r) for d, r in zip(dims, ranks, strict=True))).to_tensor()
    return x * (norm / np.linalg.norm(x))


def orthogonal_modes(seed, dims, strengths):
    """A sum of rank-one tensors with orthonormal vectors in every mode: each strength is a singular value of each mode."""
    rng, n = np.random.default_rng(seed), len(strengths)
    core = np.zeros((n,) * len(dims))
    core[(np.arange(n),) * len(dims)] = strengths
    return Tucker(core, tuple(frame(rng, d, n) for d in dims)).to_tensor()


# --- The equations. --------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(seeds, sizes())
def test_a_step_is_a_step_down_the_gradient(seed, shape):
    """Against differences of the loss, written with tensorly."""
    rng = np.random.default_rng(seed)
    target, point, direction = rng.standard_normal(shape[0]), any_point(rng, *shape), any_point(rng, *shape)
    moved = descend(target, point, steps=1, step_size=1e-3).point()
    here, there, along = ([x.core, *x.factors] for x in (point, moved, direction))

    def loss(h):
        core, *factors = (x + h * y for x, y in zip(here, along, strict=True))
        return 0.5 * np.sum((tensorly.tucker_to_tensor((core, factors)) - target) ** 2)

    predicted = -sum(np.sum((new - old) / 1e-3 * y) for new, old, y in zip(there, here, along, strict=True))
    measured = (loss(1e-5) - loss(-1e-5)) / 2e-5
    assert measured == pytest.approx(predicted, abs=1e-4 * (1 + loss(0.0) ** 2))


@settings(max_examples=15, deadline=None)
@given(seeds, sizes())
@example(25, ((3, 4, 3, 3), (1, 2, 3, 2)))  # the solver's first trial step overflows
def test_balance_of_every_mode_is_conserved(seed, shape):
    rng = np.random.default_rng(seed)
    target, start = rng.standard_normal(shape[0]), any_point(rng, *shape)
    path = integrate(target, start, np.linspace(0, 1, 5), rtol=1e-9)
    for along, first in zip(tucker_balance(path.core, path.factors), tucker_balance(*start), strict=True):
        assert along.shape == (5, *first.shape)
        assert np.abs(along - first).max() < 1e-6 * max(1, np.abs(first).max())
    assert np.all(np.diff(path.errors(target)) < 1e-6)


def test_balance_of_two_modes_is_that_of_products():
    """With an identity core in the place of one factor: order 2, ``A_1 G`` and ``G A_2'`` as the flow of A B has them."""
    rng = np.random.default_rng(0)
    g, a = rng.standard_normal((3, 4)), rng.standard_normal((5, 3))
    first, _ = tucker_balance(g, (a, np.eye(4)))
    assert np.allclose(first, a.T @ a - g @ g.T)
    assert tucker_balance_defect(g[:, :3], (a, np.zeros((2, 3)))) >= balance_defect(a, g[:, :3])


@pytest.mark.parametrize("kind", ["core-zero", "small", "orthonormal"])
def test_defect_along_a_path(kind):
    target = planted(0, (4, 5, 6), (2, 2, 2), 2.0)
    eps = None if kind == "orthonormal" else 0.3
    path = integrate(target, start_point(kind, (4, 5, 6), (2, 2, 3), eps, rng=0), [0.0, 5.0, 50.0])
    defect = tucker_balance_defect(path.core, path.factors)
    assert (defect.max() < 1e-8) == (kind != "small")
    assert np.linalg.norm(path.core[0]) == pytest.approx(0.3 if kind == "small" else 0.0)
    assert np.allclose([a.T @ a for a in path.point(0).factors][0], np.eye(2) * (eps or 1) ** 2)


def test_descent_follows_the_flow_and_drifts_from_its_balance():
    target, start = planted(0, (4, 5, 6), (2, 2, 2)), start_point("orthonormal", (4, 5, 6), (2, 2, 2), rng=1)
    flow, drifts = integrate(target, start, [0.0, 6.0]), []
    for h in (0.04, 0.02, 0.01):
        path = descend(target, start, steps=round(6 / h), step_size=h, every=10**6)
        drifts.append(np.abs(tucker_balance(path.core, path.factors)[0][-1] - tucker_balance(*start)[0]).max())
        assert np.abs(path.tensors()[-1] - flow.tensors()[-1]).max() < 2 * h
    assert np.allclose(np.array(drifts[:-1]) / drifts[1:], 2, atol=0.3)  # first order in the step


def test_views_of_a_path():
    target = planted(3, (4, 5, 6), (2, 2, 2))
    path = integrate(target, start_point("orthonormal", (4, 5, 6), (2, 3, 3), rng=0), [1.0, 80.0])
    tensors = path.tensors()
    assert np.allclose(tensors[1], path.point().to_tensor())
    assert np.allclose(path.errors(target), [np.linalg.norm(x - target) for x in tensors])
    for k in range(3):
        values = path.mode_singular_values(k)
        whole = [np.linalg.svd(tensorly.unfold(x, k), compute_uv=False)[: values.shape[1]] for x in tensors]
        assert np.allclose(values, whole, atol=1e-12)
        u, s, vt = np.linalg.svd(tensorly.unfold(target, k), full_matrices=False)
        seen = [[u[:, i] @ tensorly.unfold(x, k) @ vt[i] for i in range(2)] for x in tensors]
        assert np.allclose(path.mode_amplitudes(target, k), seen)
    assert path.mode_amplitudes(target, -1)[-1] == pytest.approx(s[:2], abs=1e-3)


# --- The scalar law, theorem 5.1. ------------------------------------------------------------------------------------


def test_half_times_of_the_table():
    """1 / (lambda eps^2) from a zero core, half of it from all four small; matrix LoRA takes a logarithm."""
    assert [tucker_half_time(1.0, eps) for eps in (0.3, 0.1, 0.03)] == pytest.approx([10.81, 99.73, 1110.84], abs=0.01)
    small = [tucker_half_time(1.0, eps, "small") for eps in (0.3, 0.1, 0.03)]
    assert small == pytest.approx([5.244, 49.73, 555.29], abs=0.01)
    assert activation_times([1.0] * 3, [0.09, 0.01, 0.0009]) == pytest.approx([1.875, 2.993, 4.199], abs=1e-3)
    assert tucker_half_time(1.0, start="orthonormal") == pytest.approx(0.4906, abs=1e-4)


@pytest.mark.parametrize("start", ["core-zero", "small"])
@pytest.mark.parametrize("order", [2, 3, 4])
def test_time_is_a_power_of_eps(start, order):
    for strength in (0.5, 2.0):
        pairs = [[tucker_half_time(strength, eps, start, order, leading=x) for x in (False, True)] for eps in (0.02, 0.002)]
        assert abs(pairs[1][0] / pairs[1][1] - 1) < abs(pairs[0][0] / pairs[0][1] - 1) < 0.1
    assert tucker_half_time(2.0, 0.1, start, 3, leading=True) == pytest.approx(50.0 if start == "core-zero" else 25.0)


def test_small_start_in_closed_form():
    """x' = (lambda - x^4) x^3 from eps, by partial fractions."""
    for strength, eps in ((1.0, 0.3), (2.5, 0.1)):
        root, half = np.sqrt(strength), np.sqrt(strength / 2)
        end = (np.arctanh(half / root) - np.arctanh(eps**2 / root)) / root - 1 / half + 1 / eps**2
        assert tucker_half_time(strength, eps, "small") == pytest.approx(end / (2 * strength), rel=1e-9)


def test_order_one_is_matrix_lora():
    times = np.linspace(0, 8, 17)
    assert tucker_scalar_flow(times, 1.5, 0.1, order=1) == pytest.approx(scalar_flow(times, 1.5, 0.01), abs=1e-10)
    assert tucker_half_time(1.5, 0.1, order=1) == pytest.approx(activation_times(1.5, 0.01), rel=1e-9)


@settings(max_examples=20, deadline=None)
@given(st.floats(0.3, 3), st.floats(0.1, 0.8), st.integers(1, 4), st.sampled_from(["core-zero", "small", "orthonormal"]))
def test_curve_passes_half_at_the_half_time(strength, eps, order, start):
    size = None if start == "orthonormal" else eps
    half = tucker_half_time(strength, size, start, order)
    if half:
        assert tucker_scalar_flow(half, strength, size, start, order) == pytest.approx(strength / 2, rel=1e-6)
    assert tucker_scalar_flow(half + 60, strength, size, start, order) == pytest.approx(strength, rel=1e-6)


def time_in_30_digits(share, strength, sizes, core):
    """Integral of dg / ((lambda - g a^N) a^N) from the start to where g a^N is this share of lambda."""
    with mpmath.workdps(30):
        constants = [mpmath.mpf(float(size)) ** 2 - mpmath.mpf(core) ** 2 for size in sizes]
        grown = lambda g: mpmath.sqrt(mpmath.fprod(c + g**2 for c in constants))  # noqa: E731
        end = mpmath.findroot(lambda g: g * grown(g) - share * strength, (core, 2.0), solver="bisect", tol=1e-55, maxsteps=300)
        first = mpmath.mpf(core or min(sizes) / 8)
        stops = [mpmath.mpf(core), *(first * 2**k for k in range(1, 60) if first * 2**k < end), end]
        return float(mpmath.quad(lambda g: 1 / ((strength - g * grown(g)) * grown(g)), stops))


@pytest.mark.parametrize(
    ("start", "eps", "order", "strength"),
    [
        ("core-zero", 1e-3, 3, 1.0), ("core-zero", 1e-2, 4, 1.3), ("small", 1e-3, 3, 2.0), ("small", 0.02, 5, 0.5),
        ("core-zero", [1e-3, 0.5, 1.0], 3, 1.0), ("core-zero", [1e-4] * 2, 2, 1.0), ("orthonormal", None, 3, 0.01),
    ],
)  # fmt: skip
def test_a_sudden_rise_is_right_half_way_up(start, eps, order, strength):
    sizes = np.broadcast_to(1.0 if eps is None else eps, order)
    shares = np.array([0.02, 0.3, 0.5, 0.8, 0.99])
    times = [time_in_30_digits(share, strength, sizes, eps if start == "small" else 0.0) for share in shares]
    found = tucker_scalar_flow(times, strength, eps, start, order)
    assert found / strength == pytest.approx(shares, abs=2e-8)
    halves = [tucker_half_time(strength, eps, start, order, fraction=share) for share in shares]
    assert halves == pytest.approx(times, rel=1e-13)


@pytest.mark.parametrize(
    ("start", "eps", "order", "strength"),
    [("small", 0.5, 3, 1.5), ("small", 1.3, 3, 0.8), ("small", 2.0, 1, 1.0), ("orthonormal", None, 4, 3.0), ("core-zero", 0.4, 2, 1.0)],
)
def test_values_against_an_integration_of_core_and_factors(start, eps, order, strength):
    """From above the strength too; times before the first panel, and single ones."""
    times = np.array([0.0, 1e-12, 1e-3, 0.1, 1.0, 2.0, 4.0, 8.0, 300.0])

    def slope(_, x):
        return (strength - np.prod(x)) * np.array([np.prod(np.delete(x, i)) for i in range(order + 1)])

    first = [0.0 if start != "small" else eps, *[eps or 1.0] * order]
    seen = [solve_ivp(slope, (0, t), first, rtol=1e-12, atol=1e-14, method="DOP853").y[:, -1] if t else first for t in times]
    found = tucker_scalar_flow(times, strength, eps, start, order)
    assert found == pytest.approx(np.prod(seen, axis=1), rel=1e-8, abs=1e-10)
    assert [tucker_scalar_flow(t, strength, eps, start, order) for t in times] == pytest.approx(found, abs=1e-14)


def test_the_strength_itself_and_starts_beyond_all_numbers():
    assert np.all(tucker_scalar_flow([0.0, 1.0, 1e9], 1.0, 1.0, "small") == 1)
    assert np.all(tucker_scalar_flow([0.0, 1e300], 1.0, 1e-120, order=6) == 0)
    assert tucker_half_time(1.0, 1e-120, order=6) == np.inf


def test_scalar_law_is_the_flow_of_an_aligned_mode():
    """Against DOP853 on the whole tensor and on the four numbers; lengths of the factors equal or not."""
    rng, strength, sizes = np.random.default_rng(0), 1.3, np.array([0.3, 0.5, 0.4])
    vectors = [frame(rng, d, 1) for d in (3, 4, 5)]
    target = Tucker(np.full((1, 1, 1), strength), tuple(vectors)).to_tensor()
    times = np.linspace(0, 12, 13)
    start = Tucker(np.zeros((1, 1, 1)), tuple(eps * u for eps, u in zip(sizes, vectors, strict=True)))
    learned = integrate(target, start, times, rtol=1e-12).mode_singular_values(0)[:, 0]
    assert learned == pytest.approx(tucker_scalar_flow(times, strength, sizes), abs=1e-9)

    def slope(_, x):
        rest = strength - np.prod(x)
        return rest * np.array([np.prod(np.delete(x, i)) for i in range(4)])

    found = solve_ivp(slope, (0, 12), [0.0, *sizes], t_eval=times, rtol=1e-12, atol=1e-14, method="DOP853")
    assert tucker_scalar_flow(times, strength, sizes) == pytest.approx(np.prod(found.y, axis=0), abs=1e-6)


def test_wrong_sign_of_an_aligned_small_start_ends_at_the_saddle():
    found = recover(np.ones((1, 1, 1)), (1, 1, 1), starts=40, steps=4000, step_size=0.2, rng=0, kind="small", eps=0.3)
    assert 0.2 < found.failure_rate < 0.8
    assert np.all(np.minimum(found.errors, np.abs(found.errors - 1)) < 1e-3)
    assert found.slopes.max() < 1e-3


def test_half_time_of_an_order_2_flow_is_not_logarithmic():
    """A core between two factors is slower than A B already: pi / (2 lambda eps)."""
    eps, target = 0.05, np.diag([1.0, 0.0, 0.0])
    start = Tucker(np.zeros((1, 1)), (eps * np.eye(3, 1), eps * np.eye(3, 1)))
    times = np.linspace(0, 45, 91)
    half = crossing_times(times, integrate(target, start, times, rtol=1e-8).mode_singular_values(0)[:, 0], 0.5)
    assert half == pytest.approx(tucker_half_time(1.0, eps, order=2), abs=0.1)
    assert half == pytest.approx(np.pi / 2 / eps, rel=0.05)
    lora = integrate_product(target, eps * np.eye(3, 1), None, times).singular_values()[:, 0]
    assert crossing_times(times, lora, 0.5) < half / 5


def test_weaker_modes_can_come_first():
    """Claim P2-thm5.1b, along one mode: of strengths 2, 1, 0.5 the last is learned before the second from this start."""
    strengths = np.array([2.0, 1.0, 0.5])
    target = orthogonal_modes(2, (8, 8, 8), strengths)
    start = start_point("core-zero", (8, 8, 8), (3, 3, 3), 0.3, rng=10)
    path = descend(target, start, steps=6000, step_size=0.05, every=20)
    times = crossing_times(path.times, path.mode_amplitudes(target, 0), strengths / 2)
    assert path.errors(target)[-1] < 1e-6
    assert times[0] < times[2] < times[1]


# --- Recovery, theorem 5.2, and surplus ranks. -----------------------------------------------------------------------


def test_recovery_from_many_starts():
    target = planted(2, (8, 9, 10), (2, 3, 3))
    assert unfolding_ranks(target) == (2, 3, 3)
    for ranks in ((2, 3, 3), (3, 4, 4)):
        found = recover(target, ranks, starts=10, steps=8000, step_size=0.2, rng=2)
        assert isinstance(found, Recovery)
        assert (found.failure_rate, found.errors.shape) == (0.0, (10,))
        assert found.errors.max() < 1e-8
    short = recover(target, (2, 3, 2), starts=5, steps=4000, step_size=0.2, rng=2)
    assert short.failure_rate == 1
    best = np.linalg.norm(target - hosvd(target, (2, 3, 2), 20).to_tensor())
    assert short.errors.min() == pytest.approx(best, abs=1e-6)


def test_targets_with_orthogonal_modes_leave_some_starts_behind():
    """Not a counterexample: the runs are near saddles, their slopes small and their errors those of missing modes."""
    target = orthogonal_modes(50, (8, 8, 8), [2.0, 1.0, 0.5])
    found = recover(target, (3, 3, 3), starts=12, steps=3000, step_size=0.04, rng=0)
    assert 0.25 <= found.failure_rate < 1
    late = found.errors > 0.1
    missing = np.sqrt([0.25, 1.0, 1.25]) / np.sqrt(5.25)
    assert np.all(np.min(np.abs(found.errors[late, None] - missing), axis=1) < 0.05)
    assert found.slopes[late].max() < 0.05


def test_one_of_many_is_one():
    target = planted(0, (4, 5, 6), (2, 2, 2))
    found = recover(target, (2, 2, 2), starts=3, steps=30, step_size=0.1, rng=5)
    rng = np.random.default_rng(5)
    for error in found.errors:
        path = descend(target, start_point("orthonormal", (4, 5, 6), (2, 2, 2), rng=rng), steps=30, step_size=0.1)
        assert path.errors(target)[-1] == pytest.approx(error)


def test_slopes_are_those_of_the_next_step_over_the_size_of_the_target():
    target, settings = planted(0, (4, 5, 6), (2, 2, 2), 2.5), {"step_size": 0.05}
    found = recover(target, (2, 2, 2), starts=1, steps=30, rng=5, **settings)
    path = descend(target, start_point("orthonormal", (4, 5, 6), (2, 2, 2), rng=5), steps=31, **settings)
    parts = [path.core, *path.factors]
    speed = np.sqrt(sum(np.sum((part[-1] - part[-2]) ** 2) for part in parts)) / 0.05
    assert found.slopes == pytest.approx([speed / np.linalg.norm(target)]) and np.linalg.norm(target) > 2


@pytest.mark.parametrize(("norm", "step_size"), [(1.0, 0.2), (0.3, 0.6)])
def test_descent_stops_when_the_last_start_is_there(norm, step_size):
    """At a thousandth of the tolerance, relative to the target; a start that never gets there takes all steps."""
    target, settings = planted(1, (4, 5, 6), (2, 2, 2), norm), {"step_size": step_size, "tolerance": 1e-4}
    first = recover(target, (2, 2, 2), starts=1, steps=4000, rng=0, **settings)
    found = recover(target, (2, 2, 2), starts=6, steps=4000, rng=0, **settings)
    assert first.steps < found.steps < 4000 and found.errors.max() <= 1e-7
    before = recover(target, (2, 2, 2), starts=6, steps=found.steps - 50, rng=0, **settings)
    assert before.steps == found.steps - 50 and before.errors.max() > 1e-7
    assert recover(target, (1, 2, 2), starts=2, steps=400, rng=0, **settings).steps == 400


@pytest.mark.parametrize(("kind", "eps"), [("orthonormal", None), ("core-zero", 0.3)])
def test_surplus_mode_singular_values_are_exactly_zero_from_a_zero_core(kind, eps):
    """Claim P2-F.3: more than "converge to 0", for factors with orthonormal columns up to scale; not from a small core."""
    dims, ranks, target = (7, 8, 6), (5, 5, 4), planted(0, (7, 8, 6), (2, 2, 2), 2.0)
    path = descend(target, start_point(kind, dims, ranks, eps, rng=0), steps=800, step_size=0.05, every=10)
    assert path.mode_singular_values(0)[:, 1].max() > 0.1
    assert max(path.mode_singular_values(k)[:, 2:].max() for k in range(3)) < 1e-13
    small = descend(target, start_point("small", dims, ranks, 0.3, rng=0), steps=800, step_size=0.05, every=10)
    assert small.mode_singular_values(0)[:, 2:].max() > 1e-4
    assert all(np.linalg.svd(a, compute_uv=False)[-1] == pytest.approx(eps or 1) for a in path.point().factors)


# --- Lemma F.1. ------------------------------------------------------------------------------------------------------


@settings(max_examples=20, deadline=None)
@given(seeds, st.integers(1, 40), st.data())
def test_gram_matrix_of_a_factor_is_no_multiple_of_the_identity(seed, d, data):
    r = data.draw(st.integers(1, d))
    factor = 0.01 * frame(np.random.default_rng(seed), d, r)
    apart = 1e4 * factor @ factor.T - r / d * np.eye(d)
    found = gram_defect(factor)
    assert found.frobenius == pytest.approx(np.linalg.norm(apart), abs=1e-7)
    assert found.frobenius == pytest.approx(np.sqrt(r * (1 - r / d)), abs=1e-7)
    assert found.spectral == pytest.approx(np.linalg.norm(apart, 2), abs=1e-10)
    assert found.printed == pytest.approx(r**1.5 / d)


def test_coupling_against_eq_26_written_out():
    rng = np.random.default_rng(0)
    target, point = rng.standard_normal((4, 5, 6)), any_point(rng, (4, 5, 6), (2, 3, 2))
    rest = tensorly.unfold(target - point.to_tensor(), 1)
    others = tensorly.unfold(point.core, 1) @ np.kron(point.factors[0], point.factors[2]).T
    u, _, vt = np.linalg.svd(tensorly.unfold(target, 1), full_matrices=False)
    full = u.T @ rest @ others.T
    own = np.array([u[:, i] @ rest @ vt[i] * (vt[i] @ others.T) for i in range(5)])
    found = coupling(target, point, 1)
    assert (found.measured, found.own) == pytest.approx((np.linalg.norm(full - own), np.linalg.norm(own)))
    assert found.printed == pytest.approx(3 / 5 * np.linalg.norm(rest))
    assert found.constant == pytest.approx(found.measured / found.printed)


def test_coupling_does_not_fall_with_the_dimension():
    """Factors half on the way to the target: at d = 8 and 64 the same coupling, of the size of what the equations keep."""
    needed = []
    for d in (8, 64):
        rng = np.random.default_rng(0)
        target = planted(0, (d, d, d), (3, 3, 3), 2.0)
        point = hosvd(target, (3, 3, 3))
        shifts = [np.pad(rng.standard_normal((3, 3)), ((0, d - 3), (0, 0))) / 2 for _ in range(3)]
        tilted = tuple(np.linalg.qr(a + shift)[0] for a, shift in zip(point.factors, shifts, strict=True))
        found = coupling(target, Tucker(0.5 * point.core, tilted), 0)
        needed.append(found.constant)
        assert found.measured > 0.2 * found.own
    assert needed[1] > 4 * needed[0]


# --- Errors. ---------------------------------------------------------------------------------------------------------

T = np.ones((2, 3, 4))
START = start_point("orthonormal", (2, 3, 4), (1, 2, 2), rng=0)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: integrate(T * np.nan, START, 1.0), ValueError, "target must hold no NaN"),
        (lambda: integrate(T[:, :2], START, 1.0), ValueError, r"target must have the shape of the update, \(2, 3, 4\)"),
        (lambda: integrate(T, START.core, 1.0), TypeError, "start must be a pair"),
        (lambda: integrate(T, (START.core, START.factors[:2]), 1.0), ValueError, "factors of start must have shapes"),
        (lambda: integrate(T, START, [2.0, 1.0]), ValueError, "times must be sorted"),
        (lambda: integrate(T, START, 1.0, method="Euler"), ValueError, "method must be one of"),
        (lambda: integrate(T, START, 1.0, rtol=0.0), ValueError, "rtol must be > 0"),
        (lambda: descend(T, START, steps=0, step_size=0.1), ValueError, "steps must be >= 1"),
        (lambda: descend(T, START, steps=5, step_size=-0.1), ValueError, "step_size must be > 0"),
        (lambda: descend(1e3 * T, START, steps=50, step_size=10.0), ValueError, "step_size 10.0 is too large"),
        (lambda: start_point("big", (2, 3), (1, 1), rng=0), ValueError, "kind must be one of 'small'"),
        (lambda: start_point("small", (2, 3), (1, 1), rng=0), ValueError, "eps must be given"),
        (lambda: start_point("orthonormal", (2, 3), (1, 1), 0.1, rng=0), ValueError, "not for 'orthonormal'"),
        (lambda: start_point("small", (2, 3), (1, 1), 0.0, rng=0), ValueError, "eps must be > 0"),
        (lambda: start_point("orthonormal", (2, 3), (1, 1)), TypeError, "rng must be"),
        (lambda: start_point("orthonormal", (2, 3), (1, 4), rng=0), ValueError, "ranks must not exceed"),
        (lambda: recover(0 * T, (1, 1, 1), starts=2, steps=5, step_size=0.1, rng=0), ValueError, "target must not be zero"),
        (lambda: recover(T, (1, 1, 1), starts=0, steps=5, step_size=0.1, rng=0), ValueError, "starts must be >= 1"),
        (lambda: recover(T, (1, 1, 1), starts=2, steps=5, step_size=0.1, rng=None), TypeError, "rng must be"),
        (lambda: tucker_balance(START.core, START.factors[:1]), ValueError, "core and factors must have shapes"),
        (lambda: tucker_balance(START.core, START.factors[::-1]), ValueError, "core and factors must have shapes"),
        (lambda: tucker_scalar_flow(1.0, 0.0, 0.1), ValueError, "strength must be > 0"),
        (lambda: tucker_scalar_flow(1.0, 1.0), ValueError, "eps must be given"),
        (lambda: tucker_scalar_flow(1.0, 1.0, [0.1, 0.2]), ValueError, "one number or, for 'core-zero', 3 of them"),
        (lambda: tucker_half_time(1.0, [0.1] * 3, "small"), ValueError, "one number or, for 'core-zero'"),
        (lambda: tucker_half_time(1.0, 0.1, order=1, leading=True), ValueError, "order >= 2 and one small eps"),
        (lambda: tucker_half_time(1.0, 0.1, fraction=1.0), ValueError, "fraction must lie between 0 and 1"),
        (lambda: gram_defect(np.zeros((3, 2))), ValueError, "factor must not be zero"),
        (lambda: coupling(T, START, 3), ValueError, "mode must be from -3 to 2"),
    ],
)
def test_wrong_arguments(call, error, message):
    with pytest.raises(error, match=message):
        call()
