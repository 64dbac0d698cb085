"""A study: a grid of runs as data, a queue that works through it, and the records it leaves.

Every configuration is a dict of plain values. `run_study` runs a function on each that has no record yet and appends what
it returns; killed at any moment, it goes on where it stopped. Two drivers may work on one file. What runs the function
is joblib: processes of this computer, or a Dask cluster under ``joblib.parallel_config(backend="dask")``, unchanged.
"""

import itertools
import json
import os
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from companion.runs import append_record, failed_records, is_failed, key_of, latest, parse, provenance, read_records

try:
    import fcntl
except ImportError:  # Windows: one driver at a time
    fcntl = None

__all__ = [
    "Outcome", "append_record", "failed_records", "grid", "provenance", "read_records", "run_study", "typical_seconds",
]  # fmt: skip

Config = dict[str, object]


@dataclass(frozen=True)
class Outcome:
    """What a call of `run_study` did.

    Attributes
    ----------
    done, failed : int
        Runs of this call that ended with a result, and with an error.
    left : int
        Configurations without a result afterwards: not started for want of time, failed, or taken by another driver.
    seconds : float
        How long the call took.
    """

    done: int
    failed: int
    left: int
    seconds: float


def grid(**axes: Sequence) -> list[Config]:
    """All combinations of the values, the last axis changing fastest.

    Parameters
    ----------
    **axes : sequence
        Values of each setting; plain values that JSON can hold.

    Returns
    -------
    list of dict

    Examples
    --------
    >>> grid(task=["rte"], seed=[0, 1])
    [{'task': 'rte', 'seed': 0}, {'task': 'rte', 'seed': 1}]
    """
    return [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]


def typical_seconds(config: Config, done: Sequence[dict]) -> float | None:
    """How long a run will take: the mean of those recorded runs that share the most settings with it.

    Parameters
    ----------
    config : dict
        The run to come.
    done : sequence of dict
        Records with ``config`` and ``seconds``.

    Returns
    -------
    float or None
        Seconds; None without a record.
    """
    shared = [sum(record["config"].get(key) == value for key, value in config.items()) for record in done]
    most = max(shared, default=0)
    times = [record["seconds"] for record, count in zip(done, shared, strict=True) if count == most]
    return sum(times) / len(times) if times else None


def run_study(
    function: Callable[[Config], dict],
    configs: Sequence[Config],
    path: Path,
    minutes: float | None = None,
    workers: int | None = 1,
    retry_failures: bool = False,
    estimate: Callable[[Config, Sequence[dict]], float | None] = typical_seconds,
    progress: bool = True,
) -> Outcome:
    """Run what has no record yet, the most valuable first, and append a record for each run.

    Parameters
    ----------
    function : callable
        Takes a configuration and returns a dict of plain values such as ``{"metrics": {"accuracy": 0.8}}``, which is
        recorded beside ``config`` and ``seconds``. It must set its own seeds. An exception is recorded as a failure.
    configs : sequence of dict
        In the order of their value.
    path : Path
        JSON-lines file of the study. Lines that are no records, from a process killed while it wrote or from elsewhere,
        are moved to a file beside it with the ending ``.rejected``, with a warning.
    minutes : float, optional
        Start no run that would end later than this, as far as `estimate` can tell; runs under way are finished.
    workers : int or None
        Processes at a time; None leaves it to ``joblib.parallel_config``.
    retry_failures : bool
        Whether to repeat runs whose last record is a failure.
    estimate : callable
        Seconds of a run from its configuration and the records so far, None if unknown; then it is started.
    progress : bool
        Whether to show a progress bar (on a terminal).

    Returns
    -------
    Outcome
        How many ended well, failed, and are left.

    Raises
    ------
    ValueError
        A configuration twice, or one that is not a dict of plain values; minutes that are not positive; no worker.
    """
    configs = list(configs)
    keys = [_checked_key(config) for config in configs]
    if len(set(keys)) < len(keys):
        raise ValueError(f"configs must differ from each other, got {configs[_first_repeated(keys)]!r} twice")
    if minutes is not None and not minutes > 0:
        raise ValueError(f"minutes must be > 0, got {minutes!r}")
    if workers == 0:
        raise ValueError("workers must be 1 or more, or None, got 0")
    start = time.monotonic()
    deadline = None if minutes is None else start + 60 * minutes
    with _locks(path) as take:
        queue = _Queue(dict(zip(keys, configs, strict=True)), path, deadline, retry_failures, estimate, take)
        counts = _work(function, queue, path, workers, progress)
    return Outcome(*counts, left=queue.left(), seconds=time.monotonic() - start)


def _work(
    function: Callable[[Config], dict], queue: "_Queue", path: Path, workers: int | None, progress: bool
) -> tuple[int, int]:
    """Hand out runs while the queue has some, and append what comes back."""
    from joblib import Parallel, delayed
    from tqdm import tqdm

    # Results come as they are ready and runs are drawn one by one, so that the queue decides as late as it can.
    parallel = Parallel(workers, return_as="generator_unordered", batch_size=1, pre_dispatch="n_jobs")
    done = failed = 0
    with tqdm(total=len(queue.waiting), disable=None if progress else True, unit="run") as bar:
        for record in parallel(delayed(_attempt)(function, config) for config in queue):
            append_record(path, record)
            queue.finished(record)
            failed += is_failed(record)
            done += not is_failed(record)
            bar.update()
    return done, failed


def _attempt(function: Callable[[Config], dict], config: Config) -> dict:
    """One run as a record, whatever happens to it."""
    start = time.monotonic()
    try:
        result = function(dict(config))
        record = {**result, "config": config}
        json.dumps(record, allow_nan=False)  # what cannot be recorded, such as a loss that is NaN, is a failure too
    except Exception as error:  # noqa: BLE001 - a failed run is a result of the study, and the others go on
        record = {"config": config, "error": f"{type(error).__name__}: {error}", "traceback": traceback.format_exc()}
    return {**record, "seconds": round(time.monotonic() - start, 3)}


class _Queue:
    """The runs that are still to be made, handed out in order as long as time allows."""

    def __init__(self, configs, path, deadline, retry_failures, estimate, take) -> None:
        self.configs, self.path, self.deadline, self.estimate, self.take = configs, path, deadline, estimate, take
        self.records = _read(path)
        skip = {key for key, record in self.records.items() if not (retry_failures and is_failed(record))}
        self.waiting = [key for key in configs if key not in skip]

    def __iter__(self) -> Iterator[Config]:
        for key in self.waiting:
            if self._has_time(self.configs[key]) and self.take(key) and not self._recorded_elsewhere(key):
                yield self.configs[key]

    def _has_time(self, config: Config) -> bool:
        if self.deadline is None:
            return True
        known = [record for record in self.records.values() if not is_failed(record) and _is_number(record.get("seconds"))]
        return time.monotonic() + (self.estimate(config, known) or 0) < self.deadline

    def _recorded_elsewhere(self, key: str) -> bool:
        """Whether another driver recorded the run, with whatever result, since this one began."""
        return _read(self.path).get(key) != self.records.get(key)

    def finished(self, record: dict) -> None:
        self.records[key_of(record["config"])] = record

    def left(self) -> int:
        records = _read(self.path)
        return sum(key not in records or is_failed(records[key]) for key in self.configs)


def _read(path: Path) -> dict[str, dict]:
    return latest(parse(path)[0]) if path.exists() else {}


@contextmanager
def _locks(path: Path) -> Iterator[Callable[[str], bool]]:
    """Locks that hold while this process lives: one for the file, one for each run.

    Byte ranges of one file beside the records stand for them; the system gives them back however the process ends.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if fcntl is None:
        _set_aside(path)
        yield lambda key: True
        return
    with open(path.with_name(f"{path.name}.lock"), "a+") as file:

        def take(key: str, kind: int = fcntl.LOCK_EX) -> bool:
            try:
                fcntl.lockf(file, kind | fcntl.LOCK_NB, 1, 1 + int(key, 16))
            except OSError:
                return False
            return True

        if take("0"):  # no other driver is at work: the file may be rewritten
            _set_aside(path)
        fcntl.lockf(file, fcntl.LOCK_SH, 1, 1)
        yield take


def _set_aside(path: Path) -> None:
    """Move lines that are no records out of the file; a kill in between leaves the old file or the new one."""
    if not path.exists():
        return
    good, bad = parse(path)
    if not bad:
        return
    rejected = path.with_name(f"{path.name}.rejected")
    with rejected.open("a", encoding="utf-8") as file:
        file.writelines(f"{line}\n" for _, line, _ in bad)
    spoilt = {number for number, _, _ in bad}
    lines = path.read_text("utf-8", errors="replace").split("\n")
    temporary = path.with_name(f"{path.name}.tmp")
    temporary.write_text("".join(f"{line}\n" for n, line in enumerate(lines, 1) if line and n not in spoilt), "utf-8")
    os.replace(temporary, path)
    number, _, reason = bad[0]
    warnings.warn(
        f"{path.name}: {len(bad)} lines are no records (the first is line {number}: {reason}); moved to {rejected.name}",
        stacklevel=5,
    )


def _checked_key(config: Config) -> str:
    if not isinstance(config, dict):
        raise ValueError(f"configs must hold dicts, got {config!r}")
    try:
        json.dumps(config, allow_nan=False)  # a record of NaN could not be written once the run is done
        return key_of(config)
    except (TypeError, ValueError) as error:
        raise ValueError(f"configs must hold plain values only, got {config!r} ({error})") from None


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and value == value


def _first_repeated(keys: list[str]) -> int:
    return next(index for index, key in enumerate(keys) if key in keys[:index])
