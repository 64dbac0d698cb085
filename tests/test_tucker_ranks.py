"""Ranks along each mode: the spectra of the unfoldings, the floors of the flips, and a pattern that PEFT understands."""

import numpy as np
import pytest
import torch
from peft import get_peft_model
from tiny_models import causal_batches, image_batches, text_batches, tiny_bert, tiny_llama, tiny_vit

from companion import tucker, tucker_ranks
from companion.gradients import MeanGradient, gradient_spectra, mean_gradients
from companion.tucker_layer import TuckerLinear
from companion.tucker_lora import TuckerLoraConfig
from companion.tucker_ranks import gradient_mode_spectra, tucker_rank_pattern

CASES = {
    "bert": (tiny_bert, text_batches, ["query", "attention.output.dense"]),
    "llama": (tiny_llama, causal_batches, ["q_proj", "v_proj", "o_proj"]),
    "vit": (tiny_vit, image_batches, ["q_proj", "o_proj"]),
}
QUERY = "bert.encoder.layer.0.attention.self.query"


def test_names_of_tensors_and_of_models_differ():
    assert not set(tucker.__all__) & set(tucker_ranks.__all__)


def planted(ranks, noise, seed=0):
    """A gradient (4, 8, 32) of these Tucker ranks, and flips that are noise alone."""
    rng = np.random.default_rng(seed)
    frames = [np.linalg.qr(rng.standard_normal((n, r)))[0] for n, r in zip((4, 8, 32), ranks, strict=True)]
    tensor = np.einsum("abc,ha,db,mc->hdm", rng.standard_normal(ranks), *frames)
    draw = lambda *shape: torch.from_numpy(noise * rng.standard_normal(shape))  # noqa: E731
    return MeanGradient(torch.from_numpy(tensor.reshape(32, 32)) + draw(32, 32), draw(9, 32, 32), 64)


@pytest.mark.parametrize("kind", CASES)
def test_spectra_are_those_of_numpys_unfoldings(kind):
    make, batches, targets = CASES[kind]
    model = make()
    gradients = mean_gradients(model, batches(16, 8), targets, flips=3)
    for name, spectra in gradient_mode_spectra(gradients, model).items():
        on_input = name.endswith(("o_proj", "output.dense"))
        heads = 2 if name.endswith("v_proj") and kind == "llama" else 4
        for matrix, floor in ((gradients[name].mean, None), *((m, k) for k, m in enumerate(gradients[name].flipped))):
            matrix = matrix.double().numpy()
            tensor = (matrix.T if on_input else matrix).reshape(heads, 8, 32)
            for mode, spectrum in enumerate(spectra):
                unfolding = np.moveaxis(tensor, mode, 0).reshape(tensor.shape[mode], -1)
                values = np.linalg.svd(unfolding, compute_uv=False)
                assert spectrum.shape == unfolding.shape and spectrum.n_examples == 16
                if floor is None:
                    assert spectrum.singular_values == pytest.approx(values, rel=1e-8, abs=1e-9)
                else:
                    assert spectrum.floors[floor] == pytest.approx(values[0], rel=1e-6)


def test_the_last_mode_is_the_matrix_itself():
    model, targets = tiny_bert(), ["query"]
    whole = gradient_spectra(model, text_batches(16, 8), targets)
    modes = gradient_mode_spectra(mean_gradients(model, text_batches(16, 8), targets), model)
    for name, spectrum in whole.items():
        assert modes[name][2].singular_values == pytest.approx(spectrum.singular_values, rel=1e-6, abs=1e-12)
        assert modes[name][2].floors == pytest.approx(spectrum.floors, rel=1e-6)


@pytest.mark.parametrize("ranks", [(1, 1, 1), (2, 3, 4), (3, 2, 2), (4, 2, 2)])
def test_planted_ranks_are_found(ranks):
    assert list(tucker_rank_pattern({QUERY: planted(ranks, 1e-6)}, tiny_bert()).values()) == [ranks]


def test_noise_has_no_rank_but_keeps_the_least():
    noise = {QUERY: planted((1, 1, 1), 100.0)}
    found = list(tucker_rank_pattern(noise, tiny_bert(), min_ranks=(2, 1, 2)).values())
    assert found in ([(2, 1, 2)], [(2, 2, 2)], [(3, 2, 2)])  # each mode exceeds its floor once in ten


@pytest.mark.parametrize("kind", CASES)
@pytest.mark.parametrize("rule", ["floor", "gap", "energy:0.9"])
def test_the_pattern_gives_every_module_its_ranks(kind, rule):
    make, batches, targets = CASES[kind]
    model = make()
    pattern = tucker_rank_pattern(mean_gradients(model, batches(16, 8), targets), model, rule, max_ranks=(2, 4, 5))
    assert all(1 <= r1 <= 2 and 1 <= r2 <= 4 and 1 <= r3 <= min(5, r1 * r2) for r1, r2, r3 in pattern.values())
    adapted = get_peft_model(model, TuckerLoraConfig(target_modules="|".join(pattern), rank_pattern=pattern))
    layers = {n: m.r["default"] for n, m in adapted.get_base_model().named_modules() if isinstance(m, TuckerLinear)}
    assert {name.replace(".", r"\."): ranks for name, ranks in layers.items()} == pattern


OUT_OF_ORDER = [
    {"min_ranks": (0, 1, 1)}, {"max_ranks": (1, 1, 0)}, {"min_ranks": (3, 1, 1), "max_ranks": (2, 2, 2)},
    {"min_ranks": (True, 1, 1)}, {"max_ranks": (True, 2, 2)}, {"max_ranks": (2.0, 2, 2)}, {"max_ranks": (2, 2)}, {"min_ranks": (1, 1, 1, 1)},
]  # fmt: skip


@pytest.mark.parametrize("limits", OUT_OF_ORDER)
def test_limits_out_of_order(limits):
    with pytest.raises(ValueError, match="min_ranks, max_ranks: got"):
        tucker_rank_pattern({QUERY: planted((1, 1, 1), 0.1)}, tiny_bert(), **limits)


def test_limits_of_numpy():
    limits = {"min_ranks": np.array([2, 2, 2]), "max_ranks": np.array([2, 3, 4])}
    (ranks,) = tucker_rank_pattern({QUERY: planted((3, 2, 5), 1e-6)}, tiny_bert(), **limits).values()
    assert ranks == (2, 2, 4) and all(type(rank) is int for rank in ranks)


@pytest.mark.parametrize(("wanted", "given"), [((4, 2, 1), (2, 2, 1)), ((1, 8, 3), (1, 3, 3)), ((2, 2, 9), (2, 2, 4)), ((2, 3, 6), (2, 3, 6))])
def test_no_rank_is_above_the_product_of_the_others(wanted, given):
    """A core of these ranks could not have an unfolding of a larger one."""
    rank_of = dict(zip((4, 8, 32), wanted, strict=True))
    found = tucker_rank_pattern({QUERY: planted((1, 1, 1), 0.1)}, tiny_bert(), lambda spectrum: rank_of[spectrum.shape[0]])
    assert list(found.values()) == [given]


def test_what_cannot_be_ranked():
    with pytest.raises(ValueError, match="empty mapping"):
        tucker_rank_pattern({}, tiny_bert())
    with pytest.raises(ValueError, match="not a projection"):
        tucker_rank_pattern({"bert.encoder.layer.0.output.dense": planted((1, 1, 1), 0.1)}, tiny_bert())
    without = planted((1, 1, 1), 0.1)
    with pytest.raises(ValueError, match="flips"):
        tucker_rank_pattern({QUERY: MeanGradient(without.mean, without.flipped[:0], 64)}, tiny_bert())
    with pytest.raises(ValueError, match="unknown|rule"):
        tucker_rank_pattern({QUERY: without}, tiny_bert(), rule="largest")
