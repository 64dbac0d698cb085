"""GLUE's metrics against their definitions."""

import numpy as np
import pytest
from companion import data
from companion.metrics import METRICS, score, task_metrics
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.stats import rankdata

classes = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=2, max_size=40)
reals = st.lists(st.tuples(st.integers(-9, 9), st.integers(-9, 9)), min_size=3, max_size=40)


@given(classes)
def test_matthews_is_the_correlation_of_two_classes(pairs):
    labels, predictions = np.array(pairs).T
    found = task_metrics("cola", labels, predictions)["matthews"]
    constant = np.ptp(labels) == 0 or np.ptp(predictions) == 0
    assert found == pytest.approx(0 if constant else np.corrcoef(labels, predictions)[0, 1], abs=1e-12)


@given(classes)
def test_f1_counts_the_second_class(pairs):
    labels, predictions = np.array(pairs).T
    found = task_metrics("mrpc", labels, predictions)
    hits = np.sum(labels * predictions)
    assert found["f1"] == pytest.approx(2 * hits / max(labels.sum() + predictions.sum(), 1))
    assert found["accuracy"] == pytest.approx(np.mean(labels == predictions))


@given(reals)
def test_spearman_is_pearson_of_ranks(pairs):
    labels, predictions = np.array(pairs, float).T
    assume(np.ptp(labels) > 0 and np.ptp(predictions) > 0)
    found = task_metrics("stsb", labels, predictions)
    assert found["pearson"] == pytest.approx(np.corrcoef(labels, predictions)[0, 1], abs=1e-9)
    assert found["spearman"] == pytest.approx(np.corrcoef(rankdata(labels), rankdata(predictions))[0, 1], abs=1e-9)


def test_a_constant_prediction_correlates_with_nothing(recwarn):
    assert task_metrics("stsb", [1.0, 2.0, 3.0], [2.0, 2.0, 2.0]) == {"pearson": 0, "spearman": 0}
    assert task_metrics("cola", [0, 1, 1], [1, 1, 1]) == {"matthews": 0}
    assert not recwarn.list


def test_every_task_of_the_package_has_its_official_metrics():
    assert {name.removesuffix("-mini") for name in data.TASKS} == set(METRICS)
    for name, task in data.TASKS.items():
        regression = METRICS[name.removesuffix("-mini")] == ("pearson", "spearman")
        assert regression == task.regression


def test_a_task_of_ones_own():
    assert task_metrics("mine", [0, 2, 1], [0, 2, 2]) == {"accuracy": pytest.approx(2 / 3)}
    assert task_metrics("mine", [1, 3, 2], [0, 3, 2], regression=True) == {"spearman": pytest.approx(1)}


def test_score_is_the_mean_in_points():
    assert score(task_metrics("qnli-mini", [0, 1, 1, 0], [0, 1, 0, 0])) == 75


@pytest.mark.parametrize(
    ("labels", "predictions", "error", "message"),
    [
        ([], [], (TypeError, ValueError), "labels"),
        ([1, 0], [1], ValueError, r"same length >= 1, got \(2,\) and \(1,\)"),
        ([1.0, np.nan], [1, 0], ValueError, "labels must hold no NaN"),
        ([1, 0], [np.inf, 0], ValueError, "predictions must hold no NaN and no infinity"),
        (["a"], [1], TypeError, "labels must hold real numbers"),
    ],
)
def test_bad_input_is_named(labels, predictions, error, message):
    with pytest.raises(error, match=message):
        task_metrics("rte", labels, predictions)


def test_a_score_of_nothing_is_refused():
    with pytest.raises(ValueError, match="one metric or more"):
        score({})
