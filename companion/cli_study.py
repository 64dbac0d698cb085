"""``companion study``: methods against each other, on GLUE or on images, resumable."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

    from companion.study import Outcome

__all__ = ["add_study"]

_GLUE = {"model": str, "rank": int, "examples": int, "calibration": int, "epochs": int, "precision": str}
_VISION = {"model": str, "per_class": int, "epochs": int, "precision": str}


def add_study(commands: argparse._SubParsersAction) -> None:
    """Add the command and its studies to a parser's commands."""
    description = "Tune, train and compare methods on tasks; records are appended, and what is recorded is not repeated."
    study = commands.add_parser("study", help="methods against each other, on GLUE or on images, resumable", description=description)
    names = study.add_subparsers(dest="study", required=True, metavar="STUDY")
    glue = _add(names, "glue", "ranks for LoRA on texts (P2 section 6.3)", _GLUE, _glue)
    glue.add_argument("--tasks", nargs="+", metavar="TASK", help="GLUE tasks or folders of Parquet files (default: all eight)")
    glue.add_argument("--methods", nargs="+", metavar="METHOD", help="parameter after a colon, as in energy:0.9 or threshold:mrpc")
    glue.add_argument("--target-modules", nargs="+", dest="targets", metavar="NAME", help="name endings or all-linear")
    vision = _add(names, "vision", "adapters of several kinds within one budget, on images (P2 section 6.4)", _VISION, _vision)
    vision.add_argument("--methods", nargs="+", metavar="METHOD", help="kinds of adapters, probe and full")
    vision.add_argument("--budgets", nargs="+", type=float, metavar="RANK", help="as ranks of uniform LoRA (default 4 1 16)")
    ablation = _add(names, "tucker-ranks", "Tucker-LoRA with given ranks, on images (P2 figure 5b)", _VISION, _ablation)
    ablation.add_argument("--ranks", nargs="+", type=_triple, metavar="R1,R2,R3", help="default: (4, 2, 2) and around it")
    for parser in (vision, ablation):
        parser.add_argument("--task", default="cifar100", help="a data set of images or a folder (default cifar100)")
        parser.add_argument("--all-classes", action="store_true", help="not only classes 50 to 99, those of CIFAR-100")


def _add(names: argparse._SubParsersAction, name: str, text: str, overrides: dict[str, type], run) -> argparse.ArgumentParser:
    parser = names.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    parser.set_defaults(run=run)
    parser.add_argument("--records", type=Path, required=True, metavar="FILE.jsonl", help="where records are and go")
    parser.add_argument("--seeds", type=int, default=5, help="final runs of every method (default 5)")
    parser.add_argument("--paper", action="store_true", help="start from the setting of P2, appendix G")
    parser.add_argument("--minutes", type=float, help="start no run that would end later than this")
    parser.add_argument("--workers", type=int, default=1, help="runs at a time (default 1)")
    parser.add_argument("--retry-failures", action="store_true", help="run again what is recorded as failed")
    for key, kind in overrides.items():
        parser.add_argument(f"--{key.replace('_', '-')}", type=kind, help=f"overrides the setting's {key}")
    return parser


def _triple(text: str) -> tuple[int, int, int]:
    ranks = tuple(int(part) for part in text.split(","))
    if len(ranks) != 3 or min(ranks) < 1:
        raise argparse.ArgumentTypeError(f"got {text!r}; accepted: three integers >= 1, as in 4,2,2")
    return ranks


def _options(arguments: argparse.Namespace, *names: str) -> dict:
    """Those of the arguments that were given."""
    found = {name: getattr(arguments, name) for name in names if getattr(arguments, name) is not None}
    if arguments.seeds < 0:
        raise ValueError(f"--seeds {arguments.seeds}: accepted: the number of final runs, >= 0")
    common = {name: getattr(arguments, name) for name in ("minutes", "workers", "retry_failures")}
    return {"seeds": range(arguments.seeds), **common, **found}


def _changed(arguments: argparse.Namespace, *names: str) -> dict:
    return {name: value for name in names if (value := getattr(arguments, name)) is not None}


def _glue(arguments: argparse.Namespace) -> int:
    from companion import glue_run, glue_study

    changes = _changed(arguments, *_GLUE, "targets")
    if changes.get("targets") == ["all-linear"]:
        changes["targets"] = "all-linear"
    setting = (glue_run.PAPER if arguments.paper else glue_run.SETTING) | changes
    outcomes = glue_study.run_glue(arguments.records, setting=setting, **_options(arguments, "tasks", "methods"))
    parts = ["tuning", *["further rates"] * (len(outcomes) - 2), "final runs"]
    return _report(arguments, list(zip(parts, outcomes, strict=True)), [("", setting)])


def _vision(arguments: argparse.Namespace) -> int:
    from companion import vision_study

    setting = _vision_setting(arguments)
    options = _options(arguments, "methods", "budgets")
    outcomes = vision_study.run_vision(arguments.records, task=arguments.task, setting=setting, **options)
    budgets = [*options.get("budgets", vision_study.BUDGETS), None]
    tables = [("no budget" if b is None else f"budget of LoRA of rank {b:g}", setting | {"rank": b, "ranks": None}) for b in budgets]
    return _report(arguments, [("all runs", outcome) for outcome in _total(outcomes)], tables)


def _ablation(arguments: argparse.Namespace) -> int:
    from companion import vision_study

    setting = _vision_setting(arguments) | {"rank": None}
    options = _options(arguments, "ranks")
    outcomes = vision_study.run_ablation(arguments.records, task=arguments.task, setting=setting, **options)
    tables = [(f"ranks {r}", setting | {"ranks": list(r)}) for r in options.get("ranks", vision_study.ABLATION)]
    return _report(arguments, [("all runs", outcome) for outcome in _total(outcomes)], tables)


def _vision_setting(arguments: argparse.Namespace) -> dict:
    from companion import vision_run

    setting = vision_run.PAPER_VISION if arguments.paper else vision_run.VISION_SETTING
    return setting | _changed(arguments, *_VISION) | ({"classes": None} if arguments.all_classes else {})


def _total(outcomes: Sequence["Outcome"]) -> list["Outcome"]:
    from companion.study import Outcome

    return [Outcome(*(sum(getattr(o, name) for o in outcomes) for name in ("done", "failed", "left", "seconds")))]


def _report(arguments: argparse.Namespace, parts: list[tuple[str, "Outcome"]], tables: list[tuple[str, dict]]) -> int:
    """What was done, the first failures, and the scores so far of each setting."""
    from companion.study import failed_records, read_records

    for part, outcome in parts:
        print(f"{part}: {outcome.done} done, {outcome.failed} failed, {outcome.left} left, {outcome.seconds:.0f} s")
    if not arguments.records.exists():  # no run fitted into the minutes
        return 0
    failures = [f for f in failed_records(arguments.records) if any(_is_of(f["config"], setting) for _, setting in tables)]
    for failure in failures[:3]:
        print(f"failed: {failure['config']['method']} on {failure['config']['task']}: {failure['error']}", file=sys.stderr)
    if failures and not arguments.retry_failures:
        print(f"{len(failures)} failed runs are left as they are; --retry-failures runs them again", file=sys.stderr)
    records = read_records(arguments.records)
    for title, setting in tables:
        _print_scores(records, title, setting)
    return int(any(outcome.failed for _, outcome in parts))


def _is_of(config: dict, setting: dict) -> bool:
    return "method" in config and all(config.get(key) == value for key, value in setting.items())


def _print_scores(records: "pd.DataFrame", title: str, setting: dict) -> None:
    from companion.study_tables import score_table, scores_of_setting

    scores = scores_of_setting(records, setting)
    if len(scores):
        print(*([title] if title else []), score_table(scores).round(2).to_string(na_rep="-"), sep="\n")
