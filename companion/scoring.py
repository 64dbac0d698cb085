"""`companion score`: a rule of one's own beside the built-in ones, on planted problems and the measured oracle."""

import importlib.util
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from companion import leaderboard, oracle
from companion.planted_benchmark import LIGHT, SETTING, plant
from companion.rank_rules import Spectrum, make_rule
from companion.runs import key_of, read_records
from companion.truth_tables import correlation, largest_setting, marginal_values, planted_table

__all__ = ["LIGHT_RULES", "Score", "load_rule", "score"]

LIGHT_RULES = ("planted", "uniform:3", "floor", "gap", "energy:0.9")
"""Built-in rules that a light run compares with."""


def load_rule(path: str | Path) -> Callable[[Spectrum], int]:
    """The function ``rule`` of a Python file. The file is run, as any program of one's own.

    Parameters
    ----------
    path : str or Path
        Defines ``rule(spectrum) -> int`` with a `companion.rank_rules.Spectrum`.

    Returns
    -------
    callable
        Its answers are checked to be integers from 0 to the shorter side of the matrix.

    Raises
    ------
    FileNotFoundError
        No such file.
    ValueError
        Not a ``.py`` file, a file that cannot be run, or one without a function ``rule``. The returned function raises
        it when the rule fails or answers something else.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    if path.suffix != ".py":
        raise ValueError(f"{path}: accepted: a Python file, its name ending in .py")
    spec = importlib.util.spec_from_file_location(f"scored_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their own module up
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[spec.name]
        raise ValueError(f"{path} cannot be run: {type(error).__name__}: {error}") from error
    rule = getattr(module, "rule", None)
    if not callable(rule):
        raise ValueError(f"{path} defines no function 'rule'; accepted: def rule(spectrum): return an integer")

    def answer(spectrum: Spectrum) -> int:
        try:
            return rule(spectrum)
        except (Exception, SystemExit) as error:
            raise ValueError(f"rule of {path} failed: {type(error).__name__}: {error}") from error

    answer.__name__ = path.stem
    return make_rule(answer)


@dataclass(frozen=True, eq=False)
class Score:
    """What `score` found.

    Attributes
    ----------
    planted : pandas.DataFrame
        Leaderboard, see `companion.truth_tables.planted_table`.
    oracle : pandas.DataFrame or None
        By rule, ``correlation`` of its ranks with the measured value of rank, ``low`` and ``high`` (95 %); None
        without a record.
    notes : tuple of str
        What a reader has to know of the numbers.
    """

    planted: pd.DataFrame
    oracle: pd.DataFrame | None
    notes: tuple[str, ...]

    def __str__(self) -> str:
        def shown(table: pd.DataFrame) -> str:
            return table.round(2).to_string(na_rep="-", index_names=False)

        parts = ["Planted ranks", shown(self.planted)]
        if self.oracle is not None:
            parts += ["", "Measured value of rank", shown(self.oracle)]
        return "\n".join([*parts, "", *self.notes])


def score(
    rule: Callable[[Spectrum], int],
    name: str,
    light: bool = False,
    seeds: Iterable[int] | None = None,
    planted_records: str | Path = "leaderboard",
    oracle_records: str | Path = "oracle",
) -> Score:
    """Score a rule, and the built-in ones beside it.

    Parameters
    ----------
    rule : callable
        ``spectrum -> int``.
    name : str
        What its row is called; not the name of a built-in rule.
    light : bool
        `companion.planted_benchmark.LIGHT` in place of ``SETTING``.
    seeds : iterable of int, optional
        Planted problems; by default those that every built-in rule has a record of, or one (light) or three if there is none.
    planted_records, oracle_records : str or Path
        As for `companion.study.read_records`. Built-in rules without a record of a problem are run; without records of
        the oracle that part is left out.

    Returns
    -------
    Score

    Raises
    ------
    ValueError
        A name that is taken, no seed, or an answer of the rule that is no rank.
    """
    built_in = LIGHT_RULES if light else leaderboard.BUILT_IN
    if name in (*leaderboard.BUILT_IN, *LIGHT_RULES):
        raise ValueError(f"name: {name!r} is a built-in rule; call the file something else")
    setting, known = LIGHT if light else SETTING, _recorded(planted_records)
    default = _recorded_seeds(setting, built_in, known) or range(1 if light else 3)
    seeds = list(default if seeds is None else seeds)
    if not seeds:
        raise ValueError("seeds: got none; accepted: one or more integers")
    rows, live = _planted_rows(rule, name, setting, built_in, seeds, known)
    notes = [
        "error, exact, within_one, correlation: ranks against the planted ones. size: parameters over planted ones.",
        "excess, gain: percent of the loss before training, over the planted ranks and under evenly spread ones.",
        f"Built-in rules: {len(rows) - len(seeds) - live} results recorded, {live} computed now.",
    ]
    if light:
        notes.append("Light: too few steps to tell which ranks learn best; excess and gain are for the full problem.")
    measured, note = _oracle({name: rule} | {known: known for known in built_in}, oracle_records)
    return Score(planted_table(pd.DataFrame(rows)), measured, (*notes, note))


def _recorded_seeds(setting: Mapping, built_in: Iterable[str], known: Mapping[str, dict], most: int = 10) -> list[int]:
    runs = {seed: leaderboard.leaderboard_runs(setting, built_in, [seed]) for seed in range(most)}
    return [seed for seed, configs in runs.items() if all(key_of(config) in known for config in configs)]


def _planted_rows(
    rule: Callable, name: str, setting: Mapping, built_in: Iterable[str], seeds: list[int], known: Mapping[str, dict]
) -> tuple[list[dict], int]:
    """Scores by rule and seed, and how many of the built-in rules had no record."""
    from tqdm import tqdm

    rows, live = [], 0
    for seed in tqdm(seeds, desc="planted problems", disable=None, leave=False):
        planted = plant({**setting, "seed": seed})
        rows.append({"rule": name, "seed": seed, **leaderboard.score_rule(rule, planted)})
        for config in leaderboard.leaderboard_runs(setting, built_in, [seed]):
            found = known.get(key_of(config))
            live += found is None
            row = leaderboard.score_rule(config["rule"], planted) if found is None else found
            rows.append({"rule": config["rule"], "seed": seed, **row})
    return rows, live


def _recorded(source: str | Path) -> dict[str, dict]:
    """Metrics of recorded runs by the key of their configuration; none where there are no records."""
    try:
        records = read_records(source)
    except FileNotFoundError:
        return {}
    metrics = {c: c.removeprefix("metrics.") for c in records if c.startswith("metrics.")}
    return dict(zip(records["key"], records[list(metrics)].rename(columns=metrics).to_dict("records"), strict=True))


def _oracle(rules: Mapping[str, str | Callable], source: str | Path) -> tuple[pd.DataFrame | None, str]:
    """Correlation of every rule's ranks with the recorded values of rank, and what they are."""
    try:
        every = read_records(source)
    except FileNotFoundError:
        return None, f"Measured oracle: no records {str(source)!r}; python -m companion.oracle makes them."
    records = largest_setting(every)
    try:
        values = marginal_values(records)
        if len(values) < 3:
            raise ValueError(f"records: got {len(values)} units; accepted: three or more")
    except ValueError as error:
        return None, f"Measured oracle: left out ({error})."
    columns = [f"config.{key}" for key in oracle.SETTING]
    setting = dict(zip(oracle.SETTING, records[columns].iloc[0], strict=True))
    setting = {key: None if value is None or value != value else value for key, value in setting.items()}
    spectra = oracle.oracle_spectra({**setting, "seed": int(values.columns[0])})
    rows = {}
    for name, rule in rules.items():
        if name not in ("planted", "threshold", "uniform:3"):  # nothing is planted; no C' for this task; one answer
            found = correlation(rule, spectra, values, np.random.default_rng(0))
            rows[name] = {"correlation": found.value, "low": found.low, "high": found.high}
    note = (
        f"Measured oracle: {setting['task']}, validation loss at rank 0 minus rank 8 in one unit, the others at rank "
        f"{setting['rank']}; {len(values)} units, {values.shape[1]} seeds. One answer for all units has no correlation."
    )
    if aside := len(every) - len(records):
        note += f" Records of other settings, left aside: {aside}."
    return pd.DataFrame.from_dict(rows, orient="index"), note
