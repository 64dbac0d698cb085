"""Rank rules on planted problems: how near they come to the ranks, and what students with their ranks reach.

``python -m companion.leaderboard RECORDS.jsonl --minutes 120`` records the built-in rules and goes on where it stopped;
``companion score my_rule.py`` puts a rule of one's own beside them.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np

from companion import data
from companion.planted_benchmark import LIGHT, SETTING, Planted, plant, rank_recovery
from companion.rank_rules import Spectrum, make_rule
from companion.read_out import mean_loss
from companion.runs import provenance
from companion.students import even_ranks, student_loss
from companion.study import run_study
from companion.targets import linear_targets

__all__ = [
    "BUILT_IN", "alone_runs", "calibrated_constant", "leaderboard_runs", "run", "score_rule",
]  # fmt: skip

BUILT_IN = ("planted", "uniform:3", "floor", "gap", "ratio:16", "energy:0.5", "energy:0.9", "threshold")
"""Rules of the leaderboard. ``"planted"`` has the answers: its gain is what true ranks are worth. ``"uniform:3"`` says
3 of every matrix, the planted mean. ``"threshold"`` takes C' from `calibrated_constant` of another problem."""

OTHER_SEED = 1000  # added to a seed: the problem that C' is calibrated on

Rule = str | Callable[[Spectrum], int]


def score_rule(rule: Rule, planted: Planted) -> dict:
    """Ranks of a rule on a planted problem, how near they are, and what students with them reach.

    Parameters
    ----------
    rule : str or callable
        What `companion.rank_rules.make_rule` takes, ``"planted"``, ``"threshold"`` or ``"uniform:3"``.
    planted : Planted
        From `companion.planted_benchmark.plant`.

    Returns
    -------
    dict
        ``ranks`` and ``planted_ranks`` by name; ``error``, ``exact``, ``within_one`` and ``correlation`` of
        `companion.planted_benchmark.rank_recovery`; ``parameters`` and ``planted_parameters``; held-out ``loss`` of
        students with the rule's ranks (cut to the setting's ``max_rank``), ``planted_loss`` with the planted ones,
        ``even_loss`` with as many parameters as the rule's spread evenly, and ``start_loss`` before training;
        ``excess`` = (loss - planted_loss) / start_loss and ``gain`` = (even_loss - loss) / start_loss.

    Raises
    ------
    ValueError
        An unknown rule, an answer that is no rank, or a problem without an update.
    """
    if not planted.updates:
        raise ValueError("planted: the teacher is the student; accepted: strength and some rank > 0")
    ranks = _ranks(rule, planted)
    cut = {name: min(rank, planted.config["max_rank"]) for name, rank in ranks.items()}
    even = even_ranks(cut, planted.costs)
    losses = {
        "loss": student_loss(planted, cut),
        "planted_loss": student_loss(planted, planted.ranks),
        "even_loss": student_loss(planted, even),
        "start_loss": mean_loss(planted.student, planted.test),
    }
    return {
        "ranks": ranks,
        "planted_ranks": planted.ranks,
        **rank_recovery(ranks, planted.ranks),
        "parameters": sum(rank * planted.costs[name] for name, rank in cut.items()),
        "planted_parameters": sum(rank * planted.costs[name] for name, rank in planted.ranks.items()),
        **losses,
        "excess": (losses["loss"] - losses["planted_loss"]) / losses["start_loss"],
        "gain": (losses["even_loss"] - losses["loss"]) / losses["start_loss"],
    }


def _ranks(rule: Rule, planted: Planted) -> dict[str, int]:
    if rule == "planted":
        return dict(planted.ranks)
    rank_of = _resolve(rule, planted.config)
    return {name: rank_of(spectrum) for name, spectrum in planted.spectra.items()}


def _resolve(rule: Rule, config: Mapping[str, object]) -> Callable[[Spectrum], int]:
    name, _, parameter = rule.partition(":") if isinstance(rule, str) else ("", "", "")
    if name == "uniform":
        if not parameter.isdecimal():
            raise ValueError(f"rule: got {rule!r}; accepted: a rank after the colon, as in 'uniform:3'")
        return make_rule(lambda spectrum: int(parameter))
    if rule == "threshold":
        return make_rule(f"threshold:{calibrated_constant(_problem(_text(config, OTHER_SEED)))!r}")
    return make_rule(rule)


def calibrated_constant(planted: Planted) -> float:
    """C' of P2 eq. 7 with the smallest mean error of the ranks on a problem, since P2 gives no value.

    Parameters
    ----------
    planted : Planted
        Another problem than the one to be scored on.

    Returns
    -------
    float
        The geometric middle of the best interval; of several, the one with the largest C'.
    """
    levels = {n: s.singular_values**2 * s.n_examples / max(s.shape) for n, s in planted.spectra.items()}
    edges = np.unique(np.concatenate([values[:64] for values in levels.values()]))
    middles = np.sqrt(edges[1:] * edges[:-1])[edges[:-1] > 0]
    found = np.stack([(values[:, None] >= middles).sum(0) for values in levels.values()])  # (matrices, constants)
    errors = np.abs(found - np.array([planted.ranks[name] for name in levels])[:, None]).mean(0)
    return float(middles[np.flatnonzero(errors == errors.min())[-1]])


def _text(config: Mapping[str, object], more: int = 0) -> str:  # a problem's setting, to remember the problem by
    return json.dumps({key: config[key] for key in SETTING} | {"seed": config["seed"] + more})


@lru_cache(maxsize=2)  # the rules of one seed, and C' for all of them, without planting again
def _problem(text: str) -> Planted:
    return plant(json.loads(text))


def run(config: Mapping[str, object]) -> dict:
    """One built-in rule on one planted problem, for `companion.study.run_study`.

    Parameters
    ----------
    config : mapping
        From `leaderboard_runs`.

    Returns
    -------
    dict
        ``metrics`` of `score_rule`, and the record's provenance.

    Raises
    ------
    ValueError
        What `companion.planted_benchmark.plant` and `score_rule` raise.
    """
    planted = _problem(_text(config))
    return {"metrics": score_rule(config["rule"], planted), **provenance(planted.frame, planted.student)}


def leaderboard_runs(
    setting: Mapping[str, object] = SETTING, rules: Sequence[str] = BUILT_IN, seeds: Iterable[int] = range(3)
) -> list[dict]:
    """Configurations for `run`, all rules of a seed before the next seed.

    Parameters
    ----------
    setting : mapping
        `companion.planted_benchmark.SETTING`, ``LIGHT`` or one of your own with the same keys.
    rules : sequence of str
    seeds : iterable of int

    Returns
    -------
    list of dict

    Examples
    --------
    >>> [(c["seed"], c["rule"]) for c in leaderboard_runs(rules=["gap"], seeds=[0, 1])]
    [(0, 'gap'), (1, 'gap')]
    """
    return [{**setting, "rule": rule, "seed": seed} for seed in seeds for rule in rules]


def alone_runs(
    setting: Mapping[str, object] = SETTING,
    rules: Sequence[str] = ("floor", "gap", "energy:0.9"),
    seeds: Iterable[int] = range(1),
) -> list[dict]:
    """Configurations for `run` with an update in one matrix at a time, and nothing trained.

    Parameters
    ----------
    setting, rules, seeds
        As for `leaderboard_runs`.

    Returns
    -------
    list of dict
        As many problems a seed as the model has targets.

    Raises
    ------
    ValueError
        As for `companion.data.load_model`.
    """
    names = linear_targets(data.load_model(setting["model"]).base_model, setting["targets"])
    runs = [leaderboard_runs({**setting, "planted": [name], "steps": 0}, rules, [s]) for s in seeds for name in names]
    return [config for problem in runs for config in problem]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m companion.leaderboard", description="Rules on planted problems.")
    parser.add_argument("records", type=Path)
    parser.add_argument("--light", action="store_true")
    parser.add_argument("--alone", action="store_true", help="an update in one matrix at a time, nothing trained")
    parser.add_argument("--rules", nargs="+")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--minutes", type=float)
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="changes of the setting, as JSON")
    arguments = parser.parse_args(argv)
    changes = {key: json.loads(value) for key, _, value in (text.partition("=") for text in arguments.set)}
    if unknown := set(changes) - set(SETTING):
        parser.error(f"--set: no setting {sorted(unknown)[0]!r}; accepted: {', '.join(SETTING)}")
    chosen = {"rules": arguments.rules} if arguments.rules else {}
    make = alone_runs if arguments.alone else leaderboard_runs
    runs = make((LIGHT if arguments.light else SETTING) | changes, seeds=range(arguments.seeds), **chosen)
    print(run_study(run, runs, arguments.records, arguments.minutes, workers=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
