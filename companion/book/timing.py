"""How long a chapter runs and how much memory it takes: `python -m companion.book.timing [light|full] [CHAPTER ...]`.

Every chapter runs in a process of its own, and the result is appended to the record `chapter-times`.
"""

from __future__ import annotations

import multiprocessing
import os
import platform
import re
import resource
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

from companion import __version__
from companion.study import append_record, read_records

RECORD = Path("companion/records/chapter-times.jsonl")
TITLE = re.compile(r"^# +(.+)$", re.MULTILINE)


def measure(source: Path, mode: str) -> dict:
    """Run one chapter and say what it took.

    Parameters
    ----------
    source : Path
        Source of the chapter.
    mode : {"light", "full"}
        Settings to run it with.

    Returns
    -------
    dict
        ``config`` (chapter, title, mode), ``metrics`` (seconds, peak_memory_mib of the kernel), version, hardware and
        date.
    """
    from companion.book.notebooks import chapter_name, execute

    os.environ["BOOK_MODE"] = mode
    start = time.monotonic()
    execute(source)
    seconds = time.monotonic() - start
    title = TITLE.search(source.read_text("utf-8"))
    return {
        "config": {"chapter": chapter_name(source), "title": title.group(1) if title else source.stem, "mode": mode},
        "metrics": {
            "seconds": round(seconds, 1),
            "peak_memory_mib": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024,
        },
        "companion": __version__,
        "hardware": f"{platform.machine()}, {_accelerator() or f'{os.cpu_count()} CPU cores'}",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _accelerator() -> str:
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else ""


def latest(record: str = "chapter-times") -> dict[str, dict[str, dict]]:
    """The last run of every chapter and mode: ``{chapter: {mode: {title, seconds, peak_memory_mib, hardware}}}``."""
    runs: dict[str, dict[str, dict]] = {}
    for row in read_records(record).to_dict("records"):
        values = {key: row[f"metrics.{key}"] for key in ("seconds", "peak_memory_mib")}
        values |= {"title": row["config.title"], "hardware": row["hardware"]}
        runs.setdefault(row["config.chapter"], {})[row["config.mode"]] = values
    return runs


def main(arguments: list[str]) -> int:
    """Entry point of `python -m companion.book.timing`; returns the exit status."""
    mode = arguments[0] if arguments else "light"
    if mode not in ("light", "full"):
        print(f"the mode must be light or full, got {mode!r}", file=sys.stderr)
        return 2
    names = arguments[1:]
    for source in sorted(Path("book/src").rglob("*.md")):
        if names and source.stem not in names:
            continue
        with multiprocessing.get_context("spawn").Pool(1) as pool:  # a fresh process: its memory is this chapter's
            run = pool.apply(measure, (source, mode))
        append_record(RECORD, run)
        print(f"{run['config']['chapter']}: {run['metrics']['seconds']:.0f} s, {run['metrics']['peak_memory_mib']} MiB")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
