"""The GLUE study: its methods and learning rates.

`companion.glue_run` makes one run; `companion.tuning` chooses the rate of every method alike.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from companion import data
from companion.data.folder import folder_of
from companion.glue_run import SETTING, threshold_constant, run
from companion.methods import METHODS
from companion.metrics import METRICS
from companion.runs import parse
from companion.study import Outcome
from companion.tuning import Design, run_tuned

__all__ = ["GLUE", "LEARNING_RATES", "run_glue"]

LEARNING_RATES: dict[str, tuple[float | None, ...]] = {
    "others": (1.5e-3, 4.5e-3, 1.35e-2),
    "full": (2e-5, 5e-5, 1e-4),
    "probe": (None,),
}
"""Learning rates to begin with, by method; ``"others"`` are all that train adapters."""

GLUE = Design(run, ("probe", *METHODS), LEARNING_RATES, parameters=("energy", "threshold"))
"""The methods of `companion.methods` and the linear probe, evaluated on GLUE's validation splits."""


def run_glue(
    path: Path,
    tasks: Sequence[str] = tuple(METRICS),
    methods: Sequence[str] = ("uniform", "floor", "gap", "permuted", "adalora", "probe"),
    seeds: Iterable[int] = range(5),
    setting: Mapping[str, object] = SETTING,
    minutes: float | None = None,
    workers: int | None = 1,
    retry_failures: bool = False,
) -> list[Outcome]:
    """Tune every method on every task, then make the final runs; whatever has a record is not repeated.

    Parameters
    ----------
    path : Path
        Records, appended to.
    tasks, methods
        In the order of their value; a method's parameter follows a colon (``"energy:0.9"``). For C' of ``"threshold"``
        that may be a task: ``"threshold:mrpc"`` computes `companion.glue_run.threshold_constant` of it, to six digits.
    seeds : iterable of int
        Of the final runs.
    setting : mapping
        `companion.glue_run.SETTING`, `companion.glue_run.PAPER` or one of your own with the same keys.
    minutes, workers, retry_failures
        As for `companion.study.run_study`.

    Returns
    -------
    list of Outcome
        Of the tuning (the first grid, then further rates where needed) and, last, of the final runs.

    Raises
    ------
    ValueError
        An unknown method or task, a task without a validation split, a folder whose training examples are not those of its records,
        ``"threshold"`` without a constant or calibrated on one of `tasks`, before anything is run; and what `companion.tuning.run_tuned` raises.
    DataUnavailableError, DataIntegrityError
        A folder that is no task; as `companion.data.task_of`.
    """
    if isinstance(tasks, str):
        raise ValueError(f"tasks: got {tasks!r}; accepted: a sequence of names or folders")
    for task in (tasks := list(tasks)):
        if GLUE.final_split not in (splits := data.task_of(task).splits):
            raise ValueError(f"tasks: {str(task)!r} has the splits {', '.join(splits)}; accepted: one with {GLUE.final_split!r}, too")
    folders = [_subject(task) for task in tasks if folder_of(task) is not None]
    if len(set(folders)) < len(folders):
        raise ValueError(f"tasks must differ from each other, got one folder twice: {', '.join(map(str, tasks))}")
    _refuse_other_data(path, [task for task in tasks if folder_of(task) is not None])
    frozen = [_with_constant(method, tasks, setting) for method in methods]
    return run_tuned(GLUE, path, tasks, frozen, seeds, setting, minutes, workers, retry_failures)


def _refuse_other_data(path: Path, folders: Sequence[str | os.PathLike]) -> None:
    """A record is found by its configuration, which names a folder and not what is in it."""
    records = parse(path)[0] if folders and path.exists() else []
    own = [record for record in records if record["config"].get("study") == "glue" and "data" in record]
    known = {_subject(record["config"]["task"]): record["data"]["sha256"] for record in own}
    for task in folders:
        if known.get(_subject(task)) not in (None, data.load_task(task).attrs["sha256"]):
            raise ValueError(f"path: {path} holds runs on other examples than {str(task)!r} has now; accepted: a new file")


def _with_constant(method: str, tasks: Sequence[str], setting: Mapping[str, object]) -> str:
    """Put a number for the task in ``"threshold:TASK"``; other methods stay as they are."""
    name, _, source = method.partition(":")
    if name != "threshold":
        return method
    if not source:
        raise ValueError(f"methods: got {method!r}; accepted: 'threshold:TASK', calibrated on that task, or 'threshold:NUMBER'")
    try:
        float(source)
    except ValueError:
        if _subject(source) in map(_subject, tasks):
            raise ValueError(f"methods: got {method!r}; accepted: a task to calibrate on that is not judged") from None
        return f"{name}:{threshold_constant(source, setting):.6g}"
    return method


def _subject(task: str | os.PathLike) -> str:
    """What a task is about: the same for a subset and for every way to write the path of a folder."""
    folder = folder_of(task)
    return task.removesuffix("-mini") if folder is None else os.path.realpath(folder)
