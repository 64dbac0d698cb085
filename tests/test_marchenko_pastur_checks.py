"""The checks of the chapter's exercises: right answers pass, plausible wrong ones fail with a hint."""

import numpy as np
import pytest

from companion.book import checks
from companion.marchenko_pastur import MarchenkoPastur, edge_fluctuation, noise_edge, spike_threshold

SHAPE = (384, 1536)


def nonzero_median(ratio):
    law = MarchenkoPastur(ratio)
    return law.ppf(law.atom + (1 - law.atom) / 2)


def false_alarms(margin):
    def threshold(shape, noise):
        centre, scale = edge_fluctuation(shape, noise)
        return centre + margin * scale

    return threshold


def flatten(matrix):
    return matrix / np.sqrt(np.mean(matrix**2, axis=1, keepdims=True))


def test_right_answers_pass():
    assert checks.mp_edges(noise_edge(SHAPE, 0.02), spike_threshold(SHAPE, 0.02))
    assert checks.mp_nonzero_median(nonzero_median)
    assert checks.mp_third_moment(lambda c: 1 + 3 * c + c**2)
    assert checks.mp_false_alarms(false_alarms(2.02))
    assert checks.mp_false_alarms(false_alarms(2.02), seed=1)
    assert checks.mp_flatten(flatten) and checks.mp_flatten(flatten, seed=1)


@pytest.mark.parametrize(
    "check, answer, hint",
    [
        (checks.mp_edges, (noise_edge(SHAPE, 1.0), 0.55), "standard deviation"),
        (checks.mp_edges, (2.0, 0.55), r"is not sigma \(sqrt\(m\)"),
        (checks.mp_edges, (noise_edge(SHAPE, 0.02), 1.3), "well below the edge"),
        (checks.mp_edges, (noise_edge(SHAPE, 0.02), 0.3), r"is not sigma \(m n\)"),
        (checks.mp_nonzero_median, (lambda c: MarchenkoPastur(c).ppf(0.5),), "above the atom"),
        (checks.mp_nonzero_median, (lambda c: MarchenkoPastur(1 / c).ppf(0.5),), "expected"),
        (checks.mp_third_moment, (lambda c: 1 + c,), "expected"),
        (checks.mp_false_alarms, (noise_edge,), "too many"),
        (checks.mp_false_alarms, (false_alarms(6.0),), "wasted"),
        (checks.mp_flatten, (lambda matrix: matrix,), "same variance"),
        (checks.mp_flatten, (lambda matrix: matrix[:5],), "keep the shape"),
    ],
)
def test_wrong_answers_fail_with_a_hint(check, answer, hint):
    with pytest.raises(AssertionError, match=hint):
        check(*answer)
