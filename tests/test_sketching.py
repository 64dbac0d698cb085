"""Sketched spectra against exact ones: within one per cent, or with a stated error that holds."""

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from companion.advice import assess
from companion.batches import batch_size
from companion.book.planted import planted_layer, spiked_examples
from companion.gradients import GradientSpectrum, Sketch, accumulator_bytes, gradient_spectra
from companion.hooks import GradientRecorder
from companion.rank_rules import make_rule
from companion.sketching import SketchedSums
from companion.spectral_lora import spectral_ranks
from test_gradients import assert_same, snapshot
from test_quantised import Packed4bit, float_twin, replaced
from tiny_models import text_batches, tiny_bert, tiny_llama, wide_batches, wide_model

TARGETS = {"bert": ["query", "value"], "llama": ["q_proj", "v_proj"], "vit": r".*layer.*(q_proj|v_proj|fc1)"}


# --- the algebra: matrices whose singular values are known ------------------------------------------------------------


def values_of(family, n):
    """Singular values by family; to Gaussian sketches a matrix and the diagonal of its values are the same."""
    i = np.arange(1.0, n + 1)
    families = {
        "power .25": lambda: i**-0.25,
        "power .5": lambda: i**-0.5,
        "power 1": lambda: i**-1,
        "power 2": lambda: i**-2,
        "exponential": lambda: np.exp(-i / 20),
        "slow exponential": lambda: np.exp(-i / 100),
        "spikes on a flat tail": lambda: np.r_[np.linspace(4, 3, 8), np.ones(n - 8)],
        "weak spikes on a flat tail": lambda: np.r_[np.linspace(1.5, 1.2, 8), np.ones(n - 8)],
        "plateau": lambda: np.r_[np.linspace(2, 1.5, 60), np.ones(n // 3), np.full(n - 60 - n // 3, 1e-4)],
        "rank ten": lambda: np.r_[np.linspace(2, 1.5, 10), np.zeros(n - 10)],
        "noise": lambda: np.linalg.svd(np.random.default_rng(n).standard_normal((n, n)), compute_uv=False),
    }
    return families[family]()


FAMILIES = [
    "power .25", "power .5", "power 1", "power 2", "exponential", "slow exponential", "spikes on a flat tail",
    "weak spikes on a flat tail", "plateau", "rank ten", "noise",
]  # fmt: skip


def read_to_the_end(matrix, sketch, seed, dtype=torch.float32):
    """Sums of one matrix after every reading; the identity's rows are its tokens."""
    matrix = torch.as_tensor(matrix, dtype=dtype)
    sums = SketchedSums(tuple(matrix.shape), 0, dtype, torch.device("cpu"), sketch, seed)
    x, dy = torch.eye(matrix.shape[1], dtype=dtype)[None], matrix.T[None].contiguous()
    while not sums.done and sums.reading <= sketch.passes:
        sums.add(x, dy, torch.ones(1, 1, dtype=dtype))
        sums.close()
        if sums.reading > 2:
            yield sums


def covers(sums, exact):
    values, errors = sums.values[0].numpy(), sums.errors[0].numpy()
    return bool(np.all((exact <= values + errors) & (exact >= values - errors)))


@pytest.mark.parametrize("family", FAMILIES)
def test_stated_errors_cover_the_true_ones_after_any_reading(family):
    trials = []
    for n, seed in itertools.product((300, 1200), range(3)):
        exact = values_of(family, n).astype(np.float32).astype(float)
        for sums in read_to_the_end(np.diag(exact), Sketch(4, 1e-9, 8), seed):
            trials.append(covers(sums, exact[:4]))
    assert len(trials) >= 6 and np.mean(trials) >= 0.95


@pytest.mark.parametrize("size", [10, 20, 40, 80])
def test_stated_errors_of_strong_values_on_a_flat_tail_in_double_precision(size):
    """The bound is nearly attained: every direction outside the subspace is as long as the longest."""
    exact = np.r_[size * np.linspace(1.2, 1, 4), np.ones(1196)]
    for seed in range(3):
        for sums in read_to_the_end(np.diag(exact), Sketch(4, 1e-14, 6), seed, torch.float64):
            assert covers(sums, exact[:4])


LARGE = [
    (2048, "power .5"), (2048, "power 1"),
    (1024, "power 2"), (1024, "exponential"), (1024, "spikes on a flat tail"),
]


@pytest.mark.parametrize("n, family", LARGE)
def test_sixteen_values_of_a_large_matrix_within_one_per_cent(n, family):
    exact = values_of(family, n)
    *_, sums = read_to_the_end(np.diag(exact), Sketch(), seed=1)
    assert sums.done
    np.testing.assert_allclose(sums.values[0], exact[:16], rtol=0.01)
    assert covers(sums, exact[:16])
    assert sums.energies[0] == pytest.approx(np.sum(exact**2), rel=0.05)


def test_values_are_lower_bounds_that_grow_and_converge():
    rng = np.random.default_rng(0)
    u, v = (np.linalg.qr(rng.standard_normal((shape, 300)))[0] for shape in (500, 400))
    exact = np.arange(1.0, 301) ** -0.5
    last = np.zeros(8)
    for sums in read_to_the_end(u * exact @ v.T, Sketch(8, 1e-4, 12), 0):
        values = sums.values[0].numpy()
        assert np.all(values <= exact[:8] * (1 + 1e-5)) and np.all(values >= last - 1e-6)
        last = values
    np.testing.assert_allclose(last, exact[:8], rtol=1e-4)


def test_energy_is_estimated_without_bias():
    exact = values_of("power .25", 300)
    found = [next(read_to_the_end(np.diag(exact), Sketch(1, 0.9, 2), seed)).energies[0].item() for seed in range(60)]
    ratio = np.array(found) / np.sum(exact**2)
    assert abs(ratio.mean() - 1) < 3 * ratio.std(ddof=1) / np.sqrt(len(ratio)) < 0.02


# --- gradients of models ----------------------------------------------------------------------------------------------


MODELS = [("bert", 512, 16, 0), ("llama", 512, 16, 1), ("vit", 512, 16, 2), ("llama", 384, 8, 3)]


@pytest.mark.parametrize("kind, hidden, k, seed", MODELS)
def test_real_gradients_within_one_per_cent(kind, hidden, k, seed):
    model, batches = wide_model(kind, hidden, seed), wide_batches(kind, 32, 12, seed + 10)
    exact = gradient_spectra(model, batches, TARGETS[kind], flips=2, rng=seed)
    sketched = gradient_spectra(model, batches, TARGETS[kind], flips=2, rng=seed, sketch=k)
    for name, spectrum in sketched.items():
        values, floors = exact[name].singular_values[:k], exact[name].floors
        rounding = 1e-6 * values[0]  # one of the ViT's gradients has rank one
        assert spectrum.truncated and (spectrum.shape, spectrum.n_examples) == (exact[name].shape, 32)
        np.testing.assert_allclose(spectrum.singular_values, values, rtol=0.01, atol=rounding, err_msg=name)
        np.testing.assert_allclose(spectrum.floors, floors, rtol=0.01, err_msg=name)
        assert np.all(np.abs(values - spectrum.singular_values) <= spectrum.errors), name
        assert np.all(np.abs(floors - spectrum.floors) <= spectrum.floor_errors), name
        assert np.all(spectrum.errors <= 0.01 * spectrum.singular_values + 3 * rounding), name
        assert spectrum.energy == pytest.approx(np.sum(exact[name].singular_values ** 2), rel=0.1)
        np.testing.assert_allclose(spectrum.flip_energies, exact[name].flip_energies, rtol=0.1)


def layer(n=64, strengths=(20.0, 4.0, 3.0), shape=(170, 240), sizes=16, seed=0):
    return planted_layer(spiked_examples(n, list(strengths), shape, np.random.default_rng(seed)), sizes)


SMALL = Sketch(k=2, passes=30)  # 72 columns: enough smaller than 170 x 240


def test_the_same_modes_stand_clear_and_the_advice_is_the_same():
    model, batches, loss = layer()
    exact = gradient_spectra(model, batches, "layer", loss)
    sketched = gradient_spectra(model, batches, "layer", loss, sketch=Sketch(k=4, passes=30))
    assert spectral_ranks(exact, max_rank=4) == spectral_ranks(sketched) == {"layer": 3}
    ours, theirs = assess(sketched), assess(exact)
    assert (ours.n_above, ours.n_modes, ours.n_examples) == (theirs.n_above, theirs.n_modes, 64)
    assert ours.needed == pytest.approx(theirs.needed, rel=0.1)


def test_pure_noise_exceeds_the_sketched_floor_at_the_stated_level():
    """Mean and flips go through the same readings. Binomial: 60 draws at level 1/4 give 15 ± 3.4."""
    alarms, sketch = 0, Sketch(1, passes=2)
    for seed in range(60):
        model, batches, loss = layer(16, (), (160, 160), 16, seed)
        with pytest.warns(UserWarning, match="after 2 readings"):
            found = gradient_spectra(model, batches, "layer", loss, flips=3, rng=seed, sketch=sketch)["layer"]
        alarms += found.singular_values[0] > found.noise_floor
    assert 6 <= alarms <= 26


def test_batches_of_any_size_and_an_iterator_that_is_read_once():
    model, _, loss = layer(48)
    found = []
    for sizes in (48, [1, 30, 17]):
        _, batches, _ = layer(48, sizes=sizes)
        found.append(gradient_spectra(model, iter(batches), "layer", loss, rng=3, sketch=SMALL)["layer"])
    np.testing.assert_allclose(found[0].singular_values, found[1].singular_values, rtol=1e-4)
    np.testing.assert_allclose(found[0].floors, found[1].floors, rtol=1e-3)


def test_the_seed_decides_everything():
    model, batches, loss = layer()
    seeds = 5, np.random.default_rng(5), 6
    found = [gradient_spectra(model, batches, "layer", loss, rng=seed, sketch=SMALL)["layer"] for seed in seeds]
    np.testing.assert_array_equal(found[0].singular_values, found[1].singular_values)
    np.testing.assert_array_equal(found[0].floors, found[1].floors)
    assert not np.array_equal(found[0].singular_values, found[2].singular_values)


def test_without_flips_and_in_inference_mode():
    model, batches, loss = layer()
    plain = gradient_spectra(model, batches, "layer", loss, flips=0, sketch=SMALL)["layer"]
    with torch.inference_mode():
        again = gradient_spectra(model, batches, "layer", loss, flips=0, sketch=SMALL)["layer"]
    assert plain.floors.shape == plain.floor_errors.shape == (0,)
    np.testing.assert_array_equal(plain.singular_values, again.singular_values)


def test_small_matrices_are_kept_whole_and_exact():
    model, batches = tiny_llama(), text_batches(16, 5)
    batches = [{**batch, "labels": batch["input_ids"]} for batch in batches]
    exact, sketched = (gradient_spectra(model, batches, ["q_proj", "down_proj"], sketch=k) for k in (None, 4))
    for name, spectrum in sketched.items():
        np.testing.assert_array_equal(spectrum.singular_values, exact[name].singular_values[:4])
        np.testing.assert_array_equal(spectrum.floors, exact[name].floors)
        assert not spectrum.errors.any() and not spectrum.floor_errors.any() and spectrum.truncated
        assert spectrum.energy == pytest.approx(np.sum(exact[name].singular_values ** 2))


def test_all_values_of_a_small_matrix_are_not_truncated():
    spectrum, _ = gradient_spectra(tiny_bert(), text_batches(8, 8), ["query"], sketch=99).values()
    assert len(spectrum.singular_values) == 32 and not spectrum.truncated
    assert make_rule("energy:0.9")(spectrum) > 0


def test_examples_that_all_agree_leave_flips_of_nothing_but_rounding():
    shared = np.random.default_rng(0).standard_normal((1, 170, 240)).repeat(16, 0)
    model, batches, loss = planted_layer(shared, 5)
    found = gradient_spectra(model, batches, "layer", loss, sketch=SMALL)["layer"]
    assert found.noise_floor < 1e-5 * found.singular_values[0]


def test_fewer_directions_than_values():
    rng = np.random.default_rng(0)
    examples = rng.standard_normal((16, 200, 1)) @ rng.standard_normal((1, 1, 220))  # one right direction for all
    model, batches, loss = planted_layer(examples, 8)
    found = gradient_spectra(model, batches, "layer", loss, sketch=Sketch(k=3))["layer"]
    exact = gradient_spectra(model, batches, "layer", loss)["layer"]
    assert found.singular_values[0] == pytest.approx(exact.singular_values[0], rel=1e-5)
    assert np.all(found.singular_values[1:] < 1e-5 * found.singular_values[0])


def test_silent_targets_beside_sketched_ones():
    class Unused(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.idle = nn.Linear(240, 170), nn.Linear(240, 170)

        def forward(self, x):
            return self.used(x)

    loss = lambda m, b: m(b).square().mean()  # noqa: E731
    data = [torch.randn(16, 240, generator=torch.Generator().manual_seed(0))]
    with pytest.warns(UserWarning, match="zero gradient in idle"):
        spectra = gradient_spectra(Unused(), data, ["used", "idle"], loss, sketch=SMALL)
    assert not spectra["idle"].singular_values.any() and not spectra["idle"].floors.any()
    assert spectra["used"].singular_values.all()


@pytest.mark.parametrize("fail", [False, True])
def test_model_is_left_exactly_as_found(fail):
    model = wide_model("llama", 256)
    model.train()
    model.model.layers[0].self_attn.eval()
    before, state, calls = snapshot(model), torch.get_rng_state(), []

    def loss(m, batch):
        calls.append(batch_size(batch))
        if fail and len(calls) == 6:
            raise RuntimeError("in the third reading")
        return m(**batch).loss

    def run():
        gradient_spectra(model, wide_batches("llama", 16, 8), ["q_proj"], loss, flips=1, sketch=SMALL)

    if fail:
        with pytest.raises(RuntimeError, match="third reading"):
            run()
    else:
        run()
    assert len(calls) > 5
    assert_same(before, snapshot(model))
    assert torch.equal(state, torch.get_rng_state())


def test_packed_and_half_precision_bases():
    model = wide_model("bert", 256)
    packed = replaced(model, Packed4bit)
    data = wide_batches("bert", 16, 8)
    reference = gradient_spectra(float_twin(model, packed), data, ["value"], flips=1)
    measured = gradient_spectra(packed, data, ["value"], flips=1, sketch=SMALL)
    half = gradient_spectra(packed.bfloat16(), data, ["value"], flips=1, sketch=SMALL)
    for name, spectrum in reference.items():
        np.testing.assert_allclose(measured[name].singular_values, spectrum.singular_values[:2], rtol=0.01)
        np.testing.assert_allclose(half[name].singular_values[0], spectrum.singular_values[0], rtol=0.1)


# --- memory -----------------------------------------------------------------------------------------------------------


def held_bytes(sums):
    """Of every tensor that one target's sums hold."""
    held = [getattr(sums, name, None) for name in ("total", "basis", "held_out", "omega")]
    return sum(tensor.untyped_storage().nbytes() for tensor in held if tensor is not None)


@pytest.mark.parametrize("sketch", [None, 2, 16])
def test_accumulators_take_the_bytes_that_were_announced(sketch, monkeypatch):
    model, data, seen = wide_model("llama", 256), wide_batches("llama", 16, 8), []
    targets = ["q_proj", "down_proj", "gate_proj"]
    add = GradientRecorder._add

    def spy(recorder, name, inputs, grads):
        add(recorder, name, inputs, grads)
        seen.append(sum(held_bytes(sums) for sums in recorder.sums.values()))

    monkeypatch.setattr(GradientRecorder, "_add", spy)
    gradient_spectra(model, data, targets, flips=3, sketch=sketch)
    assert max(seen) == accumulator_bytes(model, targets, flips=3, sketch=sketch)
    if sketch == 2:
        assert max(seen) < 0.8 * accumulator_bytes(model, targets, flips=3)


def test_bytes_grow_with_the_sides_and_not_their_product():
    model = nn.Sequential(nn.Linear(4096, 4096, bias=False, device="meta"))
    dense, sketched = (accumulator_bytes(model, ["0"], sketch=s) for s in (None, 16))
    assert dense == 10 * 4096**2 * 4 and sketched < dense / 14


# --- rules that need the rest of the spectrum -------------------------------------------------------------------------


def truncated(values, floor=1.0, shape=(40, 50)):
    return GradientSpectrum(np.array(values), np.array([floor, 0.5]), shape, 64, np.ones(2), energy=60.0)


def test_rules_answer_only_what_the_leading_values_settle():
    spectrum = truncated([5.0, 4.0, 1.0, 0.9])
    answers = {"floor": 2, "floor:3": 2, "threshold:1": 4, "gap": 2, "gap:1": 1}
    assert {rule: make_rule(rule)(spectrum) for rule in answers} == answers
    for rule in ("energy:0.9", "energy", "ratio"):
        with pytest.raises(ValueError, match=f"{rule.partition(':')[0]}.*first 4 of 40 singular values.*sketch=None"):
            make_rule(rule)(spectrum)
    with pytest.raises(ValueError, match="gap.*first 3 of 40"):
        make_rule("gap")(truncated([5.0, 4.5, 4.2]))  # a gap of 4.2 may follow
    assert make_rule("floor")(truncated([5.0, 4.0, 3.0])) == 3  # at most as many as are known
    assert make_rule(lambda s: len(s.singular_values))(spectrum) == 4


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sketch", [0, -1, 2.5, True, "16"])
def test_bad_sketches(sketch):
    with pytest.raises(ValueError, match="sketch: k came as .*accepted: an integer >= 1"):
        gradient_spectra(tiny_bert(), text_batches(8, 8), ["query"], sketch=sketch)
    with pytest.raises(ValueError, match="sketch: k came as"):
        accumulator_bytes(tiny_bert(), ["query"], sketch=sketch)


def test_bad_settings():
    with pytest.raises(ValueError, match="passes came as 1; accepted: an integer >= 2"):
        Sketch(4, passes=1)
    for tolerance in (0, 1, -0.1, "1%", float("nan")):
        with pytest.raises(ValueError, match="tolerance came as"):
            Sketch(4, tolerance=tolerance)


def test_a_loss_with_randomness_is_noticed():
    model, batches, _ = layer(strengths=())
    draws = torch.Generator().manual_seed(0)

    def loss(m, batch):
        units, targets = batch
        return (m(units).mT * targets * torch.randn(len(units), 1, 1, generator=draws)).sum() / len(units)

    with pytest.raises(ValueError, match="loss_fn: the same batches gave other gradients"):
        gradient_spectra(model, batches, "layer", loss, flips=1, sketch=SMALL)


def test_a_tolerance_that_is_not_reached_is_reported():
    model, batches, loss = layer(strengths=())
    with pytest.warns(UserWarning, match="after 3 readings 1 of 1 matrices have .* above 1e-05 .largest: .*in layer"):
        found = gradient_spectra(model, batches, "layer", loss, flips=1, sketch=Sketch(2, 1e-5, 3))["layer"]
    assert np.max(found.errors / found.singular_values) > 1e-5
