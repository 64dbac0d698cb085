"""Halves of the examples, from the flips: against gradients measured on those halves themselves."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from companion.book.planted import planted_layer, spiked_examples
from companion.gradients import GradientSpectrum, MeanGradient, gradient_spectra, mean_gradients
from companion.sign_flips import with_signs
from companion.stability import artefacts, split_halves


def test_halves_are_the_gradients_of_half_the_examples():
    gradients = spiked_examples(64, [4.0, 2.0], (12, 9), np.random.default_rng(0))
    model, batches, loss = planted_layer(gradients, 16)
    found = mean_gradients(model, batches, ["layer"], loss, flips=3, rng=7)
    signs = np.concatenate([s for _, s in with_signs(batches, 3, np.random.default_rng(7))], axis=1)
    rule = lambda spectrum: int(np.sum(spectrum.singular_values > 1.0))  # noqa: E731
    ranks = split_halves(found, rule).ranks["layer"]
    m = signs.mean(axis=1, keepdims=True)
    assert np.abs(m).max() < 0.3
    centred = (signs - m) / np.sqrt(1 - m**2)
    for split in range(3):
        for column, side in enumerate((1, -1)):
            weights = 1 + side * centred[split]
            assert np.abs(np.where(signs[split] == side, 2, 0) - weights).max() < 0.4
            direct = np.linalg.svd((weights[:, None, None] * gradients).mean(0), compute_uv=False)
            assert ranks[split, column] == np.sum(direct > 1.0)


def test_a_strong_signal_is_stable_and_noise_is_not():
    rng = np.random.default_rng(1)
    strengths = [[6.0] * (1 + i % 4) for i in range(8)]  # ranks 1 to 4, far above the noise
    signal, noise = {}, {}
    for i, planted in enumerate(strengths):
        for store, values in ((signal, planted), (noise, [])):
            model, batches, loss = planted_layer(spiked_examples(128, values, (20, 16), rng), 64)
            store[f"m{i}"] = mean_gradients(model, batches, ["layer"], loss, rng=i)["layer"]
    clear, blind = split_halves(signal, "floor"), split_halves(noise, "gap:16")
    assert clear.correlation > 0.9 and clear.agreement > 0.8 and clear.reliability > clear.correlation
    assert abs(blind.correlation) < 0.5 and blind.agreement < 0.7
    assert "correlation" in str(clear)


def test_equal_ranks_have_no_correlation_but_agree():
    model, batches, loss = planted_layer(spiked_examples(64, [9.0], (10, 10), np.random.default_rng(2)), 64)
    one = mean_gradients(model, batches, ["layer"], loss)["layer"]
    found = split_halves({"a": one, "b": one}, "gap")
    assert np.isnan(found.correlation) and np.isnan(found.reliability) and found.agreement == 1
    assert "all matrices have the same" in str(found)


def test_no_flips_and_no_matrices_are_refused():
    with pytest.raises(ValueError, match="holds no flips"):
        split_halves({"a": MeanGradient(torch.eye(3), torch.zeros(0, 3, 3), 16)}, "gap")
    with pytest.raises(ValueError, match="empty mapping"):
        split_halves({}, "gap")


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 30), st.integers(2, 40), st.integers(3, 9))
def test_artefacts_are_named_and_others_are_not(rank, n_examples, n_classes):
    spectrum = GradientSpectrum(np.linspace(2, 1, 30), np.ones(9), (30, 40), n_examples=n_examples)
    found = artefacts({"a": rank}, {"a": spectrum}, n_classes, n_tokens=25)
    words = [word for number, word in ((n_examples, "examples"), (n_classes - 1, "classes"), (25, "tokens")) if number == rank]
    assert bool(found) == bool(words)
    if found:
        assert any(word in found["a"] for word in words)


def test_ratio_rule_on_few_examples_is_caught():
    """Sixteen examples of one token each: the gradient's rank is 16, and the ratio rule finds just that."""
    model = torch.nn.Sequential(torch.nn.Linear(40, 30))
    data = [torch.randn(16, 40, generator=torch.Generator().manual_seed(0))]
    loss = lambda model, batch: (model(batch) ** 3).mean()  # noqa: E731
    spectra = gradient_spectra(model, data, ["0"], loss)
    from companion.spectral_lora import spectral_ranks

    ranks = spectral_ranks(spectra, "ratio")
    assert ranks == {"0": 16} and artefacts(ranks, spectra) == {"0": "rank 16 is the number of examples"}
    with pytest.raises(ValueError, match="'other' has no spectrum"):
        artefacts({"other": 3}, spectra)
