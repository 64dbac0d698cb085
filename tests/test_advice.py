"""The advice: calibrated on planted problems, and words that follow the numbers."""

import numpy as np
import pytest

from companion.advice import assess, examples_needed, joint_p_value
from companion.book.planted import planted_layer
from companion.gradients import GradientSpectrum, gradient_spectra


def spectra(n, strength, matrices=6, seed=0, flips=9):
    """Independent matrices, each with one planted mode of the given strength in units of one example's noise."""
    result = {}
    for k in range(matrices):
        rng = np.random.default_rng([seed, k])
        u, v = rng.standard_normal((24, 1)), rng.standard_normal((1, 16))
        signal = strength * (u / np.linalg.norm(u)) @ (v / np.linalg.norm(v))
        model, batches, loss = planted_layer(signal + rng.standard_normal((n, 24, 16)), 64)
        result[f"m{k}"] = gradient_spectra(model, batches, "layer", loss, flips=flips, rng=seed)["layer"]
    return result


def test_extrapolation_finds_where_the_mode_stands_clear():
    """The floor of one example is about sqrt(24) + sqrt(16) = 8.9; a mode of strength 0.5 passes it at n of about 320."""
    for n in (80, 160, 320):
        needed, least = examples_needed(spectra(n, 0.5).values())
        assert 150 < needed < 700 and least < needed
    assert assess(spectra(1200, 0.5)).resolved
    assert not assess(spectra(80, 0.5)).resolved


def test_noise_is_called_noise():
    resolved = [assess(spectra(32, 0.0, seed=seed)).resolved for seed in range(30)]
    assert sum(resolved) <= 3  # half of the matrices and every flip exceeded: far rarer than the level


def test_joint_p_value_is_calibrated_where_alarms_cluster():
    """Six matrices that share all of their noise: single alarms come six at a time, the joint p-value stays a p-value."""
    p_values, clusters = [], 0
    for seed in range(200):
        noise = np.random.default_rng(seed).standard_normal((16, 12, 10))
        model, batches, loss = planted_layer(noise, 16)
        spectrum = gradient_spectra(model, batches, "layer", loss, rng=seed)["layer"]
        same = dict.fromkeys("abcdef", spectrum)
        p_values.append(joint_p_value(same.values()))
        clusters += assess(same).n_above == 6
        assert assess(same).n_above in (0, 6)
    assert clusters >= 8  # level .1: about 20 of 200
    assert np.mean(np.array(p_values) < 0.1) < 0.18 and np.mean(np.array(p_values) < 0.01) < 0.04


def test_words_follow_the_numbers():
    strong, weak = assess(spectra(64, 5.0)), assess(spectra(64, 0.0))
    assert strong.n_above == 6 and 6 <= strong.n_modes <= 12 and "6 of 6" in str(strong) and "uniform" not in str(strong)
    assert "64 examples" in str(weak) and "uniform rank" in str(weak) and "noise" in str(weak)
    assert strong.p_value < 1e-3 < weak.p_value
    assert "example" in str(weak) and "inf" not in str(weak) and "nan" not in str(weak)


def test_without_flip_energies_there_is_no_extrapolation():
    bare = {"a": GradientSpectrum(np.array([0.5, 0.1]), np.array([1.0, 0.9]), (2, 2), 16)}
    assessment = assess(bare)
    assert np.isnan(assessment.needed) and "would need" not in str(assessment)
    zero = {"a": GradientSpectrum(np.zeros(2), np.zeros(4), (2, 2), 16, np.zeros(4))}
    assert assess(zero).n_above == 0 and "nan" not in str(assess(zero))
    with pytest.raises(ValueError, match="spectra"):
        assess({})
