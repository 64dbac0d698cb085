"""The official metrics of the GLUE tasks (Wang et al., 2018, table 1), from predictions and labels."""

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats
from sklearn import metrics

from companion import _validate

__all__ = ["FUNCTIONS", "METRICS", "score", "task_metrics"]


def _unless_constant(correlation: Callable[[np.ndarray, np.ndarray], float]) -> Callable[..., float]:
    """A correlation that is 0 where one side is constant, and warns of nothing."""

    def value(labels: np.ndarray, predictions: np.ndarray) -> float:
        constant = np.ptp(labels) == 0 or np.ptp(predictions) == 0
        return 0.0 if constant else float(correlation(labels, predictions))

    return value


FUNCTIONS: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "accuracy": lambda labels, predictions: float(np.mean(labels == predictions)),
    "f1": lambda labels, predictions: float(metrics.f1_score(labels, predictions, zero_division=0.0)),
    "matthews": _unless_constant(metrics.matthews_corrcoef),
    "pearson": _unless_constant(lambda labels, predictions: stats.pearsonr(labels, predictions).statistic),
    "spearman": _unless_constant(lambda labels, predictions: stats.spearmanr(labels, predictions).statistic),
}
"""Each metric as a function of labels and predictions, both of shape (n,)."""

METRICS: dict[str, tuple[str, ...]] = {
    "cola": ("matthews",),
    "mnli": ("accuracy",),
    "mrpc": ("accuracy", "f1"),
    "qnli": ("accuracy",),
    "qqp": ("accuracy", "f1"),
    "rte": ("accuracy",),
    "sst2": ("accuracy",),
    "stsb": ("pearson", "spearman"),
}
"""Official metrics of each task; where there are two, GLUE takes their mean."""


def task_metrics(
    task: str, labels: ArrayLike, predictions: ArrayLike, regression: bool = False
) -> dict[str, float]:
    """Official metrics of a task.

    Parameters
    ----------
    task : str
        Name of a GLUE task, or of a bundled subset such as ``"qnli-mini"``, or of any other task.
    labels, predictions : array_like, shape (n,)
        Classes, or scores for a regression.
    regression : bool
        For a task that is not in GLUE: Spearman's correlation if true, else accuracy.

    Returns
    -------
    dict of str to float
        By metric, between -1 and 1. A correlation with a constant is 0.

    Raises
    ------
    TypeError
        Labels or predictions that are not numbers.
    ValueError
        None of them, different lengths, NaN or infinity.

    Examples
    --------
    >>> task_metrics("mrpc", labels=[1, 1, 0, 0], predictions=[1, 0, 0, 0])
    {'accuracy': 0.75, 'f1': 0.6666666666666666}
    """
    truth, found = _validate.reals("labels", labels), _validate.reals("predictions", predictions)
    if truth.ndim != 1 or truth.shape != found.shape or not truth.size:
        raise ValueError(f"labels and predictions must have the same length >= 1, got {truth.shape} and {found.shape}")
    names = METRICS.get(task.removesuffix("-mini"), ("spearman",) if regression else ("accuracy",))
    return {name: FUNCTIONS[name](truth, found) for name in names}


def score(values: dict[str, float]) -> float:
    """One number for a task, in points: 100 times the mean of its official metrics.

    Parameters
    ----------
    values : dict of str to float
        As from `task_metrics`.

    Returns
    -------
    float

    Raises
    ------
    ValueError
        No metric.

    Examples
    --------
    >>> score({"accuracy": 0.8, "f1": 0.9})
    85.0
    """
    if not values:
        raise ValueError("values must hold one metric or more, got none")
    return round(100 * sum(values.values()) / len(values), 10)
