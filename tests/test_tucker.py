"""Tucker decompositions against tensorly and NumPy, counts against the sizes of arrays, and the export to LoRA."""

import numpy as np
import pytest
import tensorly
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tensorly.decomposition import tucker as tensorly_tucker

from companion.rank_rules import RULES
from companion.tucker import (
    Tucker,
    hosvd,
    lora_equivalent,
    lora_parameters,
    mode_floors,
    mode_ranks,
    mode_singular_values,
    mode_spectra,
    parameter_counts,
    tucker_ranks,
    unfolding_ranks,
)

pytestmark = pytest.mark.filterwarnings("error")
seeds = st.integers(0, 2**32 - 1)
quick = settings(max_examples=40, deadline=None)


@st.composite
def shapes_and_ranks(draw, most=6, feasible=False):
    dims = tuple(draw(st.lists(st.integers(1, most), min_size=2, max_size=4)))
    ranks = tuple(draw(st.integers(1, d)) for d in dims)
    if feasible:
        assume(all(r * r <= np.prod(ranks) for r in ranks))
    return dims, ranks


def gaussian(seed, shape):
    return np.random.default_rng(seed).standard_normal(shape)


def planted(seed, dims, ranks):
    """A tensor of exactly this Tucker rank, well conditioned: orthonormal factors, Gaussian core."""
    rng = np.random.default_rng(seed)
    factors = tuple(np.linalg.qr(rng.standard_normal(shape))[0] for shape in zip(dims, ranks, strict=True))
    return Tucker(rng.standard_normal(ranks), factors)


def unfolded(x, k):
    """Written out with indices: row i_k, the other indices in their order."""
    return np.stack([np.take(x, i, axis=k).ravel() for i in range(x.shape[k])])


# --- Spectra and ranks of unfoldings. --------------------------------------------------------------------------------


@quick
@given(seeds, shapes_and_ranks())
def test_mode_singular_values_are_those_of_unfoldings(seed, sizes):
    x = gaussian(seed, sizes[0])
    for k, values in enumerate(mode_singular_values(x)):
        assert np.allclose(unfolded(x, k), tensorly.unfold(x, k))
        assert np.allclose(values, np.linalg.svd(unfolded(x, k), compute_uv=False), atol=1e-10)
        assert np.sum(values**2) == pytest.approx(np.sum(x**2))


@quick
@given(seeds, shapes_and_ranks(feasible=True))
def test_rank_of_unfolding_k_is_the_planted_one(seed, sizes):
    """Claim P2-thm5.2: s_k for each unfolding, nowhere s_1 s_2 (unless the ranks say so)."""
    assert unfolding_ranks(planted(seed, *sizes).to_tensor()) == tuple(
        np.linalg.matrix_rank(unfolded(planted(seed, *sizes).core, k)) for k in range(len(sizes[0]))
    )


def test_the_paper_s_own_example_has_ranks_3_3_1():
    x = planted(0, (8, 9, 10), (3, 3, 1)).to_tensor()
    assert unfolding_ranks(x) == (3, 3, 1)
    assert unfolding_ranks(x + 1e-6 * gaussian(1, x.shape)) == (8, 9, 10)
    assert unfolding_ranks(x + 1e-6 * gaussian(1, x.shape), tolerance=1e-3) == (3, 3, 1)
    assert unfolding_ranks(np.zeros((2, 3))) == (0, 0)


# --- HOSVD and HOOI. -------------------------------------------------------------------------------------------------


@quick
@given(seeds, shapes_and_ranks())
def test_hosvd_projects_on_leading_vectors_of_every_unfolding(seed, sizes):
    dims, ranks = sizes
    x = gaussian(seed, dims)
    core, factors = hosvd(x, ranks)
    assert core.shape == ranks
    for k, factor in enumerate(factors):
        assert np.allclose(factor.T @ factor, np.eye(ranks[k]), atol=1e-12)
        u, _, _ = np.linalg.svd(unfolded(x, k), full_matrices=True)
        known = min(ranks[k], x.size // dims[k])  # the columns beyond are any completion
        assert np.allclose(np.abs(np.sum(factor[:, :known] * u[:, :known], axis=0)), 1, atol=1e-8)
    assert np.allclose(core, tensorly.tenalg.multi_mode_dot(x, [f.T for f in factors]), atol=1e-10)


@settings(max_examples=15, deadline=None)
@given(seeds, st.sampled_from([((5, 6), (2, 2)), ((4, 5, 6), (2, 3, 2)), ((3, 4, 2, 5), (2, 2, 2, 3))]))
def test_agrees_with_tensorly(seed, sizes):
    """Tensorly's `tucker` starts at the HOSVD; one iteration of it is one sweep."""
    x = gaussian(seed, sizes[0])
    for sweeps in (1, 3):
        theirs = tensorly_tucker(x, sizes[1], n_iter_max=sweeps, init="svd", svd="truncated_svd", tol=0)
        ours = hosvd(x, sizes[1], sweeps)
        assert np.allclose(ours.to_tensor(), tensorly.tucker_to_tensor(theirs), atol=1e-8)
        assert np.allclose(tensorly.tucker_to_tensor(ours), ours.to_tensor(), atol=1e-12)  # a pair that tensorly takes
        for a, b in zip(ours.factors, theirs[1], strict=True):
            assert np.allclose(np.abs(a.T @ b), np.eye(a.shape[1]), atol=1e-8)


@quick
@given(seeds, shapes_and_ranks())
def test_sweeps_never_increase_the_error_and_bounds_hold(seed, sizes):
    x = gaussian(seed, sizes[0])
    errors = [np.linalg.norm(x - hosvd(x, sizes[1], sweeps).to_tensor()) for sweeps in range(4)]
    assert np.all(np.diff(errors) <= 1e-10 * np.linalg.norm(x))
    lost = [np.sum(values[r:] ** 2) for values, r in zip(mode_singular_values(x), sizes[1], strict=True)]
    assert max(lost) <= errors[-1] ** 2 + 1e-9  # no approximation of these ranks is better in any mode
    assert errors[0] ** 2 <= sum(lost) + 1e-9


@pytest.mark.parametrize("dims", [(9, 10, 11), (4, 12, 30)])
def test_planted_ranks_are_recovered(dims):
    x = planted(0, dims, (3, 4, 5)).to_tensor()
    assert unfolding_ranks(x) == (3, 4, 5)
    assert np.linalg.norm(x - hosvd(x, (3, 4, 5)).to_tensor()) < 1e-12 * np.linalg.norm(x)
    noisy = x + 1e-7 * gaussian(1, dims)
    assert mode_ranks(noisy, "ratio") == tucker_ranks(noisy, "ratio") == (3, 4, 5)
    assert np.linalg.norm(x - hosvd(noisy, (3, 4, 5), 1).to_tensor()) < 1e-6 * np.linalg.norm(x)


def test_a_matrix_gets_its_truncated_svd():
    x = gaussian(0, (7, 5))
    u, s, vt = np.linalg.svd(x, full_matrices=False)
    assert np.allclose(hosvd(x, (2, 2)).to_tensor(), u[:, :2] * s[:2] @ vt[:2])


def test_backend_of_tensorly_that_the_caller_has_chosen_is_left_alone():
    tensorly.set_backend("pytorch", local_threadsafe=True)
    try:
        found = hosvd(gaussian(0, (3, 4, 5)), (2, 2, 2), 1)
        assert isinstance(found.to_tensor(), np.ndarray)
        assert tensorly.get_backend() == "pytorch"
    finally:
        tensorly.set_backend("numpy", local_threadsafe=True)


# --- Ranks by rules. -------------------------------------------------------------------------------------------------


@quick
@given(seeds, shapes_and_ranks(), st.sampled_from(["gap", "ratio", "energy:0.8", "threshold:0.5", "floor"]))
def test_ranks_are_the_rule_on_each_unfolding(seed, sizes, rule):
    x, flipped = gaussian(seed, sizes[0]), 0.5 * gaussian(seed + 1, (3, *sizes[0]))
    found = mode_ranks(x, rule, mode_floors(flipped), n_examples=16)
    name, _, parameter = rule.partition(":")
    for k, rank in enumerate(found):
        matrix = unfolded(x, k)
        values, one = np.linalg.svd(matrix, compute_uv=False), RULES[name]
        floor = max(np.linalg.norm(unfolded(y, k), 2) for y in flipped)
        extra = {"energy": (0.8,), "threshold": (0.5, matrix.shape, 16), "floor": (floor,)}.get(name, ())
        assert rank == one(values, *extra)


def test_floors_find_a_planted_signal_under_noise():
    """Balanced sign flips of whole examples: signal in every example, noise of its own in each."""
    rng = np.random.default_rng(0)
    signal, signs = planted(1, (6, 8, 20), (2, 2, 2)).to_tensor(), np.tile([1.0, -1.0], 32)
    examples = signal + 2 * rng.standard_normal((64, 6, 8, 20)) / np.sqrt(160)
    flipped = [np.mean(rng.permuted(signs)[:, None, None, None] * examples, axis=0) for _ in range(9)]
    floors = mode_floors(flipped)
    assert floors.shape == (9, 3)
    assert mode_ranks(examples.mean(axis=0), "floor", floors) == (2, 2, 2)
    noise = (examples - signal).mean(axis=0)
    assert max(mode_ranks(noise, "floor:1.1", floors)) == 0


def test_spectra_of_modes_have_what_rules_read():
    spectra = mode_spectra(gaussian(0, (3, 4, 5)), [[1.0, 2.0, 3.0], [4.0, 1.0, 1.0]], n_examples=7)
    assert [s.noise_floor for s in spectra] == [4, 2, 3]
    assert {(s.level, s.n_examples) for s in spectra} == {(1 / 3, 7)}
    assert [s.shape for s in spectra] == [(3, 20), (4, 15), (5, 12)]
    attributes = {"singular_values", "shape", "n_examples", "floors", "flip_energies", "noise_floor", "level"}
    assert all(hasattr(s, name) for s in spectra for name in attributes)


# --- Counts. ---------------------------------------------------------------------------------------------------------


@quick
@given(seeds, shapes_and_ranks(most=5, feasible=True))
def test_counts_are_sizes_of_arrays(seed, sizes):
    dims, ranks = sizes
    point = planted(seed, dims, ranks)
    x, counts = point.to_tensor(), parameter_counts(dims, ranks)
    assert counts.tucker == point.core.size + sum(f.size for f in point.factors)
    assert counts.dense == x.size
    fair = []
    for k, rank in enumerate(np.linalg.matrix_rank(unfolded(x, k)) for k in range(x.ndim)):
        u, s, vt = np.linalg.svd(unfolded(x, k), full_matrices=False)
        b, a = u[:, :rank] * s[:rank], vt[:rank]
        assert np.allclose(b @ a, unfolded(x, k))
        fair.append(b.size + a.size)
        assert lora_parameters(dims, rank, k) == b.size + a.size
    assert counts.lora_by_mode == tuple(fair)
    assert counts.lora_fair == min(fair)
    width = int(np.prod(ranks[:-1]))
    rows = int(np.prod(dims[:-1]))
    assert counts.lora_printed == np.empty((rows, width)).size + np.empty((width, dims[-1])).size


def test_counts_of_the_paper_s_layer():
    """(12, 64, 768): at most a factor of two at equal r_3, and the printed ratio is not O(1/d_min) for a long last side."""
    counts = parameter_counts((12, 64, 768), (4, 2, 2))
    assert (counts.tucker, counts.lora_fair, counts.lora_printed) == (1728, 3072, 12288)
    assert lora_parameters((12, 64, 768), 2) == 3072
    for ranks in np.ndindex(12, 16, 16):
        ranks = tuple(r + 1 for r in ranks)
        if all(r * r <= np.prod(ranks) for r in ranks):
            found = parameter_counts((12, 64, 768), ranks)
            assert found.tucker > 0.5 * found.lora_fair
    long = parameter_counts((256, 256, 65536), (2, 2, 2))
    assert long.tucker / long.lora_printed == pytest.approx(0.252, abs=1e-3)


def test_a_rank_above_the_product_of_the_others_is_not_charged_to_lora():
    assert parameter_counts((4, 4, 9), (1, 1, 5)).lora_by_mode == (1 * (4 + 36), 1 * (4 + 36), 1 * (9 + 16))


# --- Export. ---------------------------------------------------------------------------------------------------------


@quick
@given(seeds, shapes_and_ranks(), st.data())
def test_lora_equivalent_is_the_tensor(seed, sizes, data):
    dims, ranks = sizes
    rng = np.random.default_rng(seed)
    point = Tucker(rng.standard_normal(ranks), tuple(rng.standard_normal(s) for s in zip(dims, ranks, strict=True)))
    rows = data.draw(st.none() | st.integers(1, len(dims) - 1))
    cut = len(dims) - 1 if rows is None else rows
    b, a = lora_equivalent(point, rows)
    x = np.einsum(*_einsum(point))
    assert np.allclose(point.to_tensor(), x, rtol=0, atol=1e-12 * max(1, np.abs(x).max()))
    assert np.abs(b @ a - x.reshape(b.shape[0], a.shape[1])).max() <= 1e-12 * max(1, np.abs(x).max())
    assert b.shape[1] == a.shape[0] == min(np.prod(ranks[:cut]), np.prod(ranks[cut:]))
    assert b.shape[0] == np.prod(dims[:cut])


def _einsum(point):
    order = point.core.ndim
    arguments = [point.core, list(range(order))]
    for k, factor in enumerate(point.factors):
        arguments += [factor, [order + k, k]]
    return [*arguments, list(range(order, 2 * order))]


# --- Errors. ---------------------------------------------------------------------------------------------------------

X = np.ones((2, 3, 4))
PAIR = planted(0, (2, 3, 4), (2, 2, 2))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: mode_singular_values(X * np.nan), ValueError, "tensor must hold no NaN"),
        (lambda: hosvd(X * np.inf, (1, 1, 1)), ValueError, "tensor must hold no NaN and no infinity"),
        (lambda: hosvd(np.ones(3), (1,)), ValueError, r"order >= 2 .* got shape \(3,\)"),
        (lambda: mode_singular_values(np.ones((2, 0, 3))), ValueError, "no dimension empty"),
        (lambda: mode_singular_values(X + 1j), TypeError, "real numbers"),
        (lambda: hosvd(X, (1, 4, 1)), ValueError, r"ranks must not exceed the dimensions \(2, 3, 4\), got \(1, 4, 1\)"),
        (lambda: hosvd(X, (1, 0, 1)), ValueError, "ranks must be integers >= 1"),
        (lambda: hosvd(X, (1, -2, 1)), ValueError, "ranks must be integers >= 1"),
        (lambda: hosvd(X, (1, 1)), ValueError, "ranks must be 3 integers"),
        (lambda: hosvd(X, (1, 1.0, 1)), TypeError, "ranks must be a sequence of integers"),
        (lambda: hosvd(X, (1, True, 1)), TypeError, "ranks must be a sequence of integers"),
        (lambda: hosvd(X, 2), TypeError, "ranks must be a sequence of integers"),
        (lambda: hosvd(X, (1, 1, 1), -1), ValueError, "sweeps must be >= 0"),
        (lambda: unfolding_ranks(X, -1.0), ValueError, "tolerance must be >= 0"),
        (lambda: mode_ranks(X, ["gap", "gap"]), ValueError, "each of the 3 modes, got 2"),
        (lambda: mode_ranks(X, "median"), ValueError, "accepted: a callable or one of"),
        (lambda: mode_ranks(X, "floor"), ValueError, "floors: none were given"),
        (lambda: mode_ranks(X, "threshold:1"), ValueError, "n_examples: got None"),
        (lambda: mode_ranks(X, "floor", [[1.0, 1.0]]), ValueError, r"floors must have shape \(flips, 3\)"),
        (lambda: mode_floors([]), ValueError, "at least one tensor"),
        (lambda: mode_floors([X, X[:, :, :2]]), ValueError, "flipped tensors must have one shape"),
        (lambda: parameter_counts((3,), (1,)), ValueError, "dims must be at least two"),
        (lambda: parameter_counts((3, 0), (1, 1)), ValueError, "dims must be integers >= 1"),
        (lambda: parameter_counts((3, 2.5), (1, 1)), TypeError, "dims must be a sequence of integers"),
        (lambda: parameter_counts((3, 2), (4, 1)), ValueError, "ranks must not exceed"),
        (lambda: lora_parameters((3, 2), 1, mode=2), ValueError, "mode must be from -2 to 1"),
        (lambda: lora_parameters((3, 2), 0), ValueError, "rank must be >= 1"),
        (lambda: lora_equivalent(PAIR.core), TypeError, "tucker must be a pair of a core and its factors, got ndarray"),
        (lambda: lora_equivalent((PAIR.core, PAIR.factors[:2])), ValueError, r"shapes \(d_k, r_k\)"),
        (lambda: lora_equivalent((PAIR.core, PAIR.factors[::-1][:2] + (X[0],))), ValueError, r"shapes \(d_k, r_k\)"),
        (lambda: lora_equivalent(PAIR, 3), ValueError, "rows must be from 1 to 2"),
        (lambda: lora_equivalent(PAIR, 0), ValueError, "rows must be >= 1"),
    ],
)
def test_wrong_arguments(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_unfolding_ranks_in_single_precision():
    tensor = planted_float32()
    assert unfolding_ranks(tensor) == (3, 3, 1)


def planted_float32():
    rng = np.random.default_rng(0)
    core = rng.standard_normal((3, 3, 1))
    return np.einsum("abc,ia,jb,kc", core, *(rng.standard_normal((d, r)) for d, r in zip((8, 9, 10), core.shape))).astype("f4")


def test_a_decomposition_of_tensorly_is_taken_as_it_is():
    found = tensorly_tucker(planted_float32().astype(float), rank=[3, 3, 1])
    b, a = lora_equivalent(found)[:2]
    assert b.shape[1] == a.shape[0]
