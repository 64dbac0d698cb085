"""The vision study: kinds of adapters at several budgets, and Tucker ranks around P2's, on images.

`companion.vision_run` makes one run; `companion.tuning` chooses the learning rate of every kind and budget alike.
"""

import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from companion.data.folder import folder_of, splits_of
from companion.data.image_tasks import IMAGE_TASKS
from companion.matched_adapters import KINDS
from companion.study import Outcome
from companion.tuning import Design, minutes_left, run_tuned
from companion.vision_run import VISION_SETTING, run_vision_once

__all__ = ["ABLATION", "BUDGETS", "VISION", "VISION_RATES", "run_ablation", "run_vision"]

VISION_RATES: dict[str, tuple[float | None, ...]] = {
    "others": (1e-3, 3e-3, 9e-3),
    "full": (3e-5, 1e-4, 3e-4),
    "probe": (None,),
}
"""Learning rates to begin with, by method; ``"others"`` are all adapters. P2 has 1e-3 (appendix G.4)."""

VISION = Design(run_vision_once, ("probe", "full", *KINDS), VISION_RATES, "test", parameters=())
"""The kinds of `companion.matched_adapters` with a linear probe and full fine-tuning, on the official test images."""

BUDGETS = (4.0, 1.0, 16.0)
"""Ranks of the uniform LoRA whose parameters are the budget, the one to run first in front."""

ABLATION = ((4, 2, 2), (1, 1, 1), (2, 2, 2), (4, 4, 2), (4, 8, 2), (4, 2, 4), (4, 2, 8), (6, 6, 6), (6, 12, 12))
"""Tucker ranks around P2's (4, 2, 2) (figure 5b), the same for every projection; smaller, larger along one mode, larger."""


def run_vision(
    path: Path,
    methods: Sequence[str] = ("lora", "tucker", "probe", "lokr", "loha", "tucker-qkv", "tucker-layers", "full"),
    budgets: Sequence[float] = BUDGETS,
    seeds: Iterable[int] = range(5),
    task: str = "cifar100",
    setting: Mapping[str, object] = VISION_SETTING,
    minutes: float | None = None,
    workers: int | None = 1,
    retry_failures: bool = False,
) -> list[Outcome]:
    """Every kind of adapter at every budget; whatever has a record is not repeated.

    Parameters
    ----------
    path : Path
        Records, appended to.
    methods : sequence of str
        Keys of `companion.matched_adapters.KINDS`, ``"probe"`` and ``"full"``, in the order of their value. The last two, and
        those as printed, have no budget and run once. A kind whose smallest adapter is above a budget leaves failures.
    budgets : sequence of float
        Ranks of uniform LoRA, in the order of their value.
    seeds, minutes, workers, retry_failures
        As for `companion.tuning.run_tuned`.
    task : str
        A data set of images, as for `companion.data.load_images`.
    setting : mapping
        `companion.vision_run.VISION_SETTING` or `PAPER_VISION`, or one of your own with the same keys; the budgets replace
        its ``rank`` and ``ranks``.

    Returns
    -------
    list of Outcome

    Raises
    ------
    ValueError
        An unknown method or a folder without a test split, before anything is run; and what
        `companion.tuning.run_tuned` raises.
    """
    for method in methods:
        VISION.config(setting, task, method, None, 0, "test")
    free = [method for method in methods if method in FREE]
    bound = [method for method in methods if method not in FREE]
    ranks = [float(budget) for budget in budgets] if bound else []  # 4 and 4.0 are one run
    parts = [({"rank": rank, "ranks": None}, bound) for rank in ranks]
    parts += [({"rank": None, "ranks": None}, free)] if free else []
    return _in_parts(path, task, parts, seeds, setting, minutes, workers, retry_failures)


FREE = ("probe", "full", "tucker-printed", "lora-printed")  # what they cost is not for a budget to say


def run_ablation(
    path: Path,
    ranks: Sequence[tuple[int, int, int]] = ABLATION,
    seeds: Iterable[int] = range(5),
    task: str = "cifar100",
    setting: Mapping[str, object] = VISION_SETTING,
    minutes: float | None = None,
    workers: int | None = 1,
    retry_failures: bool = False,
) -> list[Outcome]:
    """Tucker-LoRA with given ranks, the same for every projection (P2 figure 5b); otherwise as `run_vision`.

    Parameters
    ----------
    path : Path
        Records, appended to.
    ranks : sequence of (int, int, int)
        Along heads, head_dim and d_model, in the order of their value.
    seeds, task, setting, minutes, workers, retry_failures
        As for `run_vision`.

    Returns
    -------
    list of Outcome

    Raises
    ------
    ValueError
        A folder without a test split, before anything is run; and what `companion.tuning.run_tuned` raises.
    """
    parts = [({"rank": None, "ranks": list(map(int, r))}, ["tucker"]) for r in ranks]
    return _in_parts(path, task, parts, seeds, setting, minutes, workers, retry_failures)


def _in_parts(
    path: Path,
    task: str,
    parts: Sequence[tuple[dict, list[str]]],
    seeds: Iterable[int],
    setting: Mapping[str, object],
    minutes: float | None,
    workers: int | None,
    retry_failures: bool,
) -> list[Outcome]:
    start, outcomes, seeds = time.monotonic(), [], list(seeds)
    folder = folder_of(task, IMAGE_TASKS)
    if folder is not None and VISION.final_split not in (splits := splits_of(folder, IMAGE_TASKS)):
        raise ValueError(f"task: {str(task)!r} has the splits {', '.join(splits)}; accepted: one with {VISION.final_split!r}, too")
    for changes, methods in parts:
        left = minutes_left(minutes, start)
        outcomes += run_tuned(VISION, path, [task], methods, seeds, {**setting, **changes}, left, workers, retry_failures)
    return outcomes
