"""Records of runs: one JSON line a run, appended whole or not at all, with what is needed to repeat it."""

import hashlib
import json
import os
import platform
import sys
from datetime import UTC, datetime
from importlib import metadata, resources
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

try:
    import resource
except ImportError:  # Windows: the peak of memory is not recorded
    resource = None

if TYPE_CHECKING:
    from torch import nn

__all__ = ["append_record", "failed_records", "provenance", "read_records"]

_PACKAGES = ("numpy", "scipy", "scikit-learn", "torch", "transformers", "peft")


def provenance(frame: pd.DataFrame, model: "nn.Module | None" = None) -> dict:
    """Where and with what a run was made.

    Parameters
    ----------
    frame : pandas.DataFrame
        As from `companion.data.load_task`; its ``attrs`` name the source, row count and SHA-256.
    model : nn.Module, optional
        Its base weights, before training, are hashed (names, shapes and values of all parameters, the head's too).

    Returns
    -------
    dict
        ``data``, ``model`` (SHA-256, where one is given), ``versions``, ``hardware``, ``peak_memory_mib`` (of this process; None on Windows) and ``date`` (UTC).

    Raises
    ------
    KeyError
        `frame` does not say where it came from.

    Examples
    --------
    >>> from companion.data import load_task
    >>> provenance(load_task("qnli-mini"))["data"]["rows"]
    8192
    """
    import torch

    from companion import __version__

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads"
    return {
        "data": {key: frame.attrs[key] for key in ("task", "split", "source", "rows", "sha256", "subset")},
        **({} if model is None else {"model": {"sha256": _hash_of(model)}}),
        "versions": {"companion": __version__, "python": platform.python_version()}
        | {name: metadata.version(name) for name in _PACKAGES},
        "hardware": f"{platform.machine()}, {device}",
        "peak_memory_mib": _peak_memory(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _peak_memory() -> int | None:
    """In MiB; the system counts in KiB, macOS in bytes."""
    if resource is None:
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // (1024**2 if sys.platform == "darwin" else 1024)


def _hash_of(model: "nn.Module") -> str:
    digest = hashlib.sha256()
    for name, value in model.named_parameters():
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        digest.update(value.detach().cpu().float().numpy().tobytes())
    return digest.hexdigest()


def append_record(path: Path, record: dict) -> None:
    """Append one record as a line, in a single write that is on disk when this returns.

    A line that an earlier, killed process left without its end is closed first, so that it damages no other.

    Parameters
    ----------
    path : Path
        JSON-lines file; made with its folder where there is none.
    record : dict
        What JSON can hold; nested one level, as `read_records` shows it.

    Raises
    ------
    TypeError
        `record` holds something that JSON cannot.
    ValueError
        `record` holds NaN or infinity.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "runs.jsonl"
    ...     append_record(path, {"config": {"seed": 0}, "metrics": {"loss": 0.5}})
    ...     print(read_records(path).drop(columns="key").to_dict("records"))
    [{'config.seed': 0, 'metrics.loss': 0.5}]
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    torn = path.exists() and path.stat().st_size > 0 and path.read_bytes()[-1:] != b"\n"
    line = ("\n" if torn else "") + json.dumps(record, allow_nan=False) + "\n"
    handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(handle, line.encode())
        os.fsync(handle)
    finally:
        os.close(handle)


def read_records(source: str | Path) -> pd.DataFrame:
    """Records of a study, one row a run, nested entries as columns ``config.seed``, ``metrics.accuracy``, ….

    The first column, ``key``, is short for the whole configuration.

    Failed runs are left out (`failed_records` has them), and of several records of one configuration the last one counts.

    Parameters
    ----------
    source : str or Path
        Name of a study that comes with the package (``"gradient-growth"``), or a path to a JSON-lines file.

    Returns
    -------
    pandas.DataFrame, shape (runs, columns)

    Raises
    ------
    FileNotFoundError
        No such study or file.
    ValueError
        A line is not a record; the message names it.

    Examples
    --------
    >>> sorted(read_records("gradient-growth")["config.task"].unique())[:1]
    ['qnli-mini']
    """
    path = source if isinstance(source, Path) else resources.files("companion") / "records" / f"{source}.jsonl"
    if not path.is_file():
        known = sorted(p.name.removesuffix(".jsonl") for p in (resources.files("companion") / "records").iterdir())
        raise FileNotFoundError(f"source: no records {str(source)!r}; accepted: a path or one of {', '.join(known)}")
    good, bad = parse(path)
    if bad:
        number, _, reason = bad[0]
        raise ValueError(f"{path.name}, line {number}: not a record ({reason})")
    kept = [{"key": key, **record} for key, record in latest(good).items() if not is_failed(record)]
    return pd.json_normalize(kept, max_level=1)


def failed_records(path: Path) -> list[dict]:
    """Records of the runs that failed and were not repeated with success, with `error` and `traceback`.

    Parameters
    ----------
    path : Path
        JSON-lines file.

    Returns
    -------
    list of dict
    """
    return [record for record in latest(parse(path)[0]).values() if is_failed(record)]


def key_of(config: dict) -> str:
    """A short name of a configuration that depends on nothing but its content."""
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:12]


def method_label(method: str, parameter: float | None) -> str:
    """A method with its parameter after a colon, the same for 0.9 and 0.90."""
    return method if parameter is None or parameter != parameter else f"{method}:{parameter:.12g}"


def is_failed(record: dict) -> bool:
    """Whether a record says that its run failed."""
    return "error" in record


def latest(records: list[dict]) -> dict[str, dict]:
    """The record that counts for every configuration, by `key_of`: the last success, else the last failure."""
    found: dict[str, dict] = {}
    for record in records:
        key = key_of(record["config"])
        if key not in found or is_failed(found[key]) or not is_failed(record):
            found[key] = record
    return found


def parse(path: Path) -> tuple[list[dict], list[tuple[int, str, str]]]:
    """The records of a file, and number, text and fault of every line that is none."""
    good, bad = [], []
    for number, line in enumerate(path.read_text("utf-8", errors="replace").split("\n"), 1):
        if not line:  # the end, or two workers that both closed a torn line
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            bad.append((number, line, str(error)))
            continue
        if isinstance(record, dict) and isinstance(record.get("config"), dict):
            good.append(record)
        else:
            bad.append((number, line, "it has no configuration"))
    return good, bad
