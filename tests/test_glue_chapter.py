"""The chapter *SpectralLoRA on GLUE*: its exercises, and tables and figures from whatever its records hold."""

import itertools

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from companion.allocation import allocate
from companion.book import checks, claims, glue_figures as gf, glue_spectra as gs, glue_tables as gt, record_tables as rt
from companion.book.audit import PRINTED
from companion.glue_run import PAPER, SETTING
from companion.glue_study import GLUE, LEARNING_RATES
from companion.gradients import GradientSpectrum
from companion.planted_benchmark import SETTING as PLANTED
from companion.runs import append_record
from companion.statistics import minimum_detectable_effect, paired_power
from companion.tuning import TUNING_SEED

NAMES = [f"bert.encoder.layer.{layer}.attention.self.{kind}" for layer in range(6) for kind in ("query", "value")]
PRINTED_3 = PRINTED["P2 table 3"]
RATES = LEARNING_RATES["others"]


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


# --- Synthetic records ------------------------------------------------------------------------------------------------


def glue_run(task="stsb", method="uniform", seed=0, score=80.0, split="validation", rate=RATES[1], setting=None, **metrics):
    name, _, parameter = method.partition(":")
    config = {
        **(setting or SETTING), "task": task, "method": name, "parameter": float(parameter) if parameter else None,
        "learning_rate": None if name == "probe" else rate, "seed": seed, "split": split,
    }  # fmt: skip
    ranks = {n: 4 + (seed + i) % 2 for i, n in enumerate(NAMES)} if name == "adalora" else dict.fromkeys(NAMES, 4)
    if name == "gap":
        ranks = dict(zip(NAMES, range(1, 13), strict=True))
    times = {"choosing": 6.0 if name == "uniform" else 12.0, "training": 0.0 if name == "probe" else 72.0}
    found = {"score": score, "ranks": ranks, "parameters": 36864, **times, **metrics}
    return {"metrics": found, "config": config, "seconds": 90.0, "date": f"2026-01-01T00:{seed % 60:02d}:00+00:00"}


def tuning_run(task, method, best):
    """All rates of a method, the one at place `best` with the highest score, falling by two points a step."""
    return [
        glue_run(task, method, TUNING_SEED, 80 - 2 * abs(place - best), "tuning", rate) for place, rate in enumerate(RATES)
    ]


def tuning(records, source=None):
    return rt.tuning(records, GLUE, SETTING, source)


def final_runs(tasks=("stsb", "rte"), seeds=range(5), lead=1.0):
    rng = np.random.default_rng(0)
    for task, seed in itertools.product(tasks, seeds):
        base = 80 + rng.normal()
        for method, gain in {"uniform": 0, "gap": lead, "floor": 0.1, "permuted": 0, "adalora": -2, "probe": -40}.items():
            yield glue_run(task, method, seed, base + gain + 0.05 * rng.normal())


def estimate(task="rte", head="warm", examples=512, draw=0, strength=1.0, modes=16):
    """Twelve spectra whose first mode stands at ``strength * sqrt(n / 512)`` floors, growing with depth."""
    scale = 1.5 ** np.repeat(np.arange(6), 2) / np.sqrt(examples)
    first = np.sqrt(0.25 + (strength**2) * examples / 512)
    values = scale[:, None] * np.concatenate([[first], 0.4 * 0.9 ** np.arange(modes - 1)])
    ranks = {r: [1] * 12 for r in ("gap", "floor")} | {
        f"energy:{t}": list(range(k, k + 12)) for t, k in (("0.7", 6), ("0.8", 10), ("0.9", 20), ("0.95", 30))
    }
    metrics = {"names": NAMES, "values": values.tolist(), "floor": scale.tolist(), "ranks": ranks}
    config = {"study": "estimates", "task": task, "head": head, "examples": examples, "draw": draw, "flips": 19, "seed": 0}
    return {"metrics": metrics, "config": config}


def written(tmp_path, records, name="runs.jsonl"):
    for record in records:
        append_record(tmp_path / name, record)
    return tmp_path / name


@pytest.fixture
def tuning_only(tmp_path):
    runs = [*tuning_run("stsb", "uniform", 1), *tuning_run("stsb", "adalora", 2), *tuning_run("stsb", "gap", 1)[:2]]
    return rt.load(written(tmp_path, runs))


@pytest.fixture
def complete(tmp_path):
    runs = [run for task in ("stsb", "rte") for m in ("uniform", "gap", "adalora") for run in tuning_run(task, m, 1)]
    return rt.load(written(tmp_path, [*runs, *final_runs()]))


# --- Gaps are gaps ----------------------------------------------------------------------------------------------------


def everything(study, estimates):
    """What the chapter does with its records, in its order; returns the texts."""
    scores = gt.final(study)
    tasks, compared, tuned = gt.study_tasks(scores), rt.comparison(scores), tuning(study)
    known = list(dict.fromkeys(estimates.get("config.task", [])))
    found = gs.clearances(estimates, None)
    figures = [gf.growth_figure(found), gf.depth_figure(estimates, known), gf.gap_figure(gs.adalora_and_gaps(study, estimates))]
    figures.append(gf.differences_figure(compared, PRINTED_3, gt.METHODS[1:5]))
    for figure in figures:
        figure.canvas.draw()
    return [
        gt.missing(scores, tasks), rt.tuning_text(tuned), gt.table_3(scores, PRINTED_3, tasks).to_string(),
        gt.comparison_text(compared), gs.tested_extrapolations(found).to_string(), str(gt.cost_ratio(study)),
        gt.by_budget(study).to_string(), gt.one_percent(study).to_string(),
    ]  # fmt: skip


def test_nothing_recorded_is_a_gap_everywhere(tmp_path):
    empty = rt.load(tmp_path / "none.jsonl")
    assert empty.empty and rt.load("no such study").empty
    texts = everything(empty, empty)
    assert texts[0].count("no final run yet") == len(gt.PLANNED) and "No tuning run" in texts[1] and "No method" in texts[3]
    (tmp_path / "empty.jsonl").write_text("")
    assert everything(rt.load(tmp_path / "empty.jsonl"), empty) == texts
    scores = gt.final(empty)
    assert claims.recorded(*gt.average(scores, "gap", "uniform")) is claims.PENDING
    assert gt.cost_ratio(empty) is None and gs.adalora_and_gaps(empty, empty) == {}
    assert rt.open_grids(tuning(empty)) == set() and gt.same_ranks(empty, "rte", "floor", "permuted") == (0, 0)
    assert gs.spread_over_draws(empty, ["rte"], len).empty
    assert gt.leaderboard(empty) == (None, None) and gt.oracle_values(empty) is None


def test_runs_that_say_only_yes_are_found_by_their_f1(tmp_path):
    from sklearn.metrics import accuracy_score, f1_score

    rng = np.random.default_rng(0)
    labels = rng.random(400) < 0.7

    def measured(answers):
        found = {"accuracy": accuracy_score(labels, answers), "f1": f1_score(labels, answers)}
        return {**found, "score": 50 * sum(found.values())}

    yes, good = measured(np.ones(400)), measured(labels ^ (rng.random(400) < 0.1))
    runs = [
        glue_run("mrpc", "uniform", TUNING_SEED, split="tuning", rate=RATES[0], **good | {"score": 10.0}),
        glue_run("mrpc", "uniform", TUNING_SEED, split="tuning", **yes),
        glue_run("mrpc", "gap", TUNING_SEED, split="tuning", **good),
        glue_run("mrpc", "gap", TUNING_SEED, split="tuning", rate=RATES[0], **yes | {"score": 10.0}),
        *(glue_run("mrpc", "uniform", seed, **(yes if seed else good)) for seed in range(3)),
        *(glue_run("mrpc", "gap", seed, **good) for seed in range(2)),
        glue_run("stsb", "gap"),
    ]
    table = gt.one_answer(rt.load(written(tmp_path, runs)))
    assert table.loc[("mrpc", "uniform")].tolist() == [3, 2, True, pytest.approx(yes["score"])]
    assert table.loc[("mrpc", "gap")].tolist()[:3] == [2, 0, False] and np.isnan(table.loc[("mrpc", "gap"), "score"])
    assert len(table) == 2 and gt.one_answer(rt.load(written(tmp_path, runs[-1:], "none.jsonl"))).empty
    assert gt.one_answer(pd.DataFrame()).empty


def test_tuning_runs_only(tuning_only):
    texts = everything(tuning_only, rt.load("none"))
    assert "no final run yet" in texts[0] and "incomplete" in texts[1]
    tuned = tuning(tuning_only)
    assert tuned["grid"].to_dict() == {("stsb", "adalora"): "open", ("stsb", "gap"): "incomplete", ("stsb", "uniform"): "closed"}
    assert rt.open_grids(tuned) == {("stsb", "adalora")}
    assert tuned.loc[("stsb", "uniform"), "chosen"] == RATES[1]


def test_a_grid_closes_when_a_further_rate_is_worse(tmp_path):
    runs = tuning_run("rte", "uniform", 2)
    beyond = [glue_run("rte", "uniform", TUNING_SEED, score, "tuning", rate) for score, rate in ((81.0, 0.0405), (70.0, 0.121))]
    found = [tuning(rt.load(written(tmp_path, [*runs, *beyond[:k]], f"{k}.jsonl"))) for k in range(3)]
    assert [table.loc[("rte", "uniform"), "grid"] for table in found] == ["open", "open", "closed"]
    assert found[-1].loc[("rte", "uniform"), "chosen"] == 0.0405


def test_a_rate_that_diverged_counts_as_tried(tmp_path):
    runs = tuning_run("rte", "uniform", 1)
    failed = {"config": runs[2]["config"], "error": "ValueError: diverged", "traceback": ""}
    path = written(tmp_path, [*runs[:2], failed])
    assert tuning(rt.load(path), source=path).loc[("rte", "uniform"), "grid"] == "closed"
    assert tuning(rt.load(path)).loc[("rte", "uniform"), "grid"] == "incomplete"
    path = written(tmp_path, [*runs[:2], failed, *tuning_run("rte", "gap", 1)], "more.jsonl")
    tuned = tuning(rt.load(path), source=path)
    assert tuned.loc[("rte", "uniform"), RATES[2]] == -np.inf and tuned.loc[("rte", "uniform"), "chosen"] == RATES[1]


@pytest.mark.parametrize("method", ["energy:0.9", "threshold:1.2345678e-05"])
def test_a_rate_that_diverged_counts_as_tried_by_a_method_with_a_parameter(tmp_path, method):
    runs = tuning_run("rte", method, 1)
    failed = {"config": runs[2]["config"], "error": "ValueError: diverged", "traceback": ""}
    path = written(tmp_path, [*runs[:2], failed])
    row = tuning(rt.load(path), source=path).loc[("rte", method)]
    assert row[RATES[2]] == -np.inf and row["chosen"] == RATES[1] and row["grid"] == "closed"


def test_ranks_of_two_parameters_are_those_of_two_methods(tmp_path):
    other = dict(zip(NAMES, [0, 8] * 6, strict=True))
    runs = [glue_run("rte"), glue_run("rte", "energy:0.5"), glue_run("rte", "energy:0.9", ranks=other)]
    study = rt.load(written(tmp_path, runs))
    assert gt.same_ranks(study, "rte", "energy:0.5", "uniform") == (1, 1)
    assert gt.same_ranks(study, "rte", "energy:0.9", "uniform") == (0, 1)


def test_one_seed_is_shown_and_not_compared(tmp_path):
    study = rt.load(written(tmp_path, final_runs(("stsb",), [0])))
    texts = everything(study, rt.load("none"))
    assert "uniform 1" in texts[0] and "missing: uniform 4" in texts[0]
    assert "(1)" in texts[2] and "±" not in texts[2] and "No method" in texts[3]


def test_a_task_judges_ranks_only_where_lora_is_clearly_above_the_probe(tmp_path):
    def scores(gap_to_probe):
        runs = [*final_runs(("stsb",)), *(glue_run("rte", "uniform", s, 60 + 0.1 * s) for s in range(5))]
        runs += [glue_run("rte", "probe", s, 60 - gap_to_probe + 0.3 * (-1) ** s) for s in range(5)]
        return gt.final(rt.load(written(tmp_path, runs, f"{gap_to_probe}.jsonl")))

    assert set(rt.judges(scores(5.0))) == {"stsb", "rte"}
    assert rt.judges(scores(0.0)) == rt.judges(scores(-5.0)) == ["stsb"]
    unknown = scores(5.0)
    assert rt.judges(unknown[unknown.index.get_level_values("method") != "probe"]) == []
    assert np.isnan(gt.average(unknown, "gap", "uniform", [])).all()


def test_two_tasks_are_compared_and_averaged(complete):
    texts = everything(complete, rt.load("none"))
    assert "missing: " not in texts[0].split("\n")[0] and "(5)" in texts[2]
    heads = texts[2].split("\n")[0].replace("(P2)", "").split()
    assert heads == [gt.TASKS[task] for task in gt.PLANNED]
    scores = gt.final(complete)
    table = rt.comparison(scores)
    assert rt.in_words(table.loc[("rte", "gap")]) == "above uniform"
    assert rt.in_words(table.loc[("rte", "adalora")]) == "below uniform"
    assert rt.in_words(table.loc[("rte", "permuted")]) == "the same as uniform up to half a point"
    assert rt.in_words(pd.Series({"p_holm": 0.01, "difference": -0.1, "p_equivalent": 0.01})).endswith("by less than half a point")
    value, error = gt.average(scores, "gap", "uniform")
    paired = scores.xs("gap", level="method") - scores.xs("uniform", level="method")
    a, b = (paired.xs(task, level="task") for task in ("stsb", "rte"))
    expected = stats.ttest_ind(a, -b, equal_var=False).confidence_interval()  # of mean(a) + mean(b)
    np.testing.assert_allclose([value - error, value + error], [expected.low / 2, expected.high / 2], rtol=1e-9)
    one = stats.ttest_1samp(a, 0).confidence_interval()
    value, error = gt.average(scores, "gap", "uniform", ["stsb"], 1)
    np.testing.assert_allclose([value - error, value + error], [one.low, one.high], rtol=1e-9)
    fewer = scores.drop([("stsb", "gap", 3), ("stsb", "gap", 4)])  # every run counts, whatever other tasks have
    assert gt.average(fewer, "gap", "uniform")[0] == pytest.approx((a[:3].mean() + b.mean()) / 2)


@pytest.mark.parametrize(("units", "least"), [(4, np.nan), (5, 1.0), (6, 0.886), (7, 0.786), (8, 0.738)])
def test_least_correlation_is_that_of_the_tables(units, least):
    """Critical values of Spearman's coefficient, two-sided 5 % (Zar, 1984, table B.20)."""
    assert gt.least_correlation(units) == pytest.approx(least, abs=6e-4, nan_ok=True)
    assert gt.least_correlation(12) == pytest.approx(0.587, abs=0.02)


def test_scatter_is_not_told_apart():
    rows = {("rte", m, s): x for m, xs in {"uniform": (70, 72, 71), "gap": (73, 69, 72)}.items() for s, x in enumerate(xs)}
    scores = pd.Series(rows).rename_axis(["task", "method", "seed"])
    assert "not told apart from uniform; 3 seeds would show" in rt.in_words(rt.comparison(scores).iloc[0])


@pytest.mark.parametrize("change", [{"least_tasks": 3}, {"tasks": ["sst2"]}, {"skip": {("rte", "adalora")}}])
def test_an_average_needs_its_tasks(complete, change):
    assert np.isnan(gt.average(gt.final(complete), "gap", "adalora", **change)).all()


def test_an_average_needs_three_seeds(tmp_path):
    scores = gt.final(rt.load(written(tmp_path, final_runs(seeds=range(2)))))
    assert np.isnan(gt.average(scores, "gap", "uniform")[0])
    assert np.isnan(gt.average(scores, "gap", "nothing")[0])


def test_other_settings_do_not_count(tmp_path):
    runs = [glue_run(setting=SETTING | {"rank": 8}), glue_run(setting=PAPER), glue_run(seed=3)]
    study = rt.load(written(tmp_path, runs))
    assert gt.final(study).index.tolist() == [("stsb", "uniform", 3)]
    assert len(gt.final(study, PAPER)) == len(gt.final(study, SETTING | {"rank": 8})) == 1


def test_of_two_rates_the_chosen_one_counts(tmp_path):
    runs = [glue_run(score=70.0), glue_run(score=75.0, rate=RATES[2]), *tuning_run("stsb", "uniform", 2)]
    assert gt.final(rt.load(written(tmp_path, runs))).tolist() == [75.0]
    other = rt.load(written(tmp_path, [runs[0], *runs[2:]], "other.jsonl"))
    assert gt.final(other).empty and "no final run yet" in gt.missing(gt.final(other), ["stsb"])
    with pytest.raises(ValueError, match="two runs"):
        gt.final(rt.load(written(tmp_path, runs[:2], "twice.jsonl")))


def test_budgets_and_one_percent(tmp_path):
    runs = [
        glue_run(task, method, seed, 80 + seed + gain + rank / 10, setting=SETTING | {"rank": rank})
        for task in ("stsb", "rte") for rank in (2, 4, 8, 16) for seed in range(3)
        for method, gain in (("uniform", 0), ("gap", 0.5 + 0.01 * seed))
    ]  # fmt: skip
    runs += [glue_run(task, "full", seed, 81.0) for task in ("stsb", "rte") for seed in range(2)]
    study = rt.load(written(tmp_path, runs))
    budgets = gt.by_budget(study)
    assert budgets.index.tolist() == [2, 4, 8, 16]
    np.testing.assert_allclose(budgets["difference"], 0.51)
    share = gt.one_percent(study)
    np.testing.assert_allclose(share["share"], (80 + 1 + 1.6) / 81.0)
    calibrated = gt.scores_as({"a": (gt.final(study), "gap"), "b": (gt.final(study, SETTING | {"rank": 2}), "gap")})
    np.testing.assert_allclose(gt.average(calibrated, "a", "b")[0], 0.2)


def test_cost_of_choosing(tmp_path):
    study = rt.load(written(tmp_path, final_runs()))
    middle, low, high = gt.cost_ratio(study)
    np.testing.assert_allclose([middle, low, high], [6 / 512 / (72 / 6000), 6 / 512 / (72 / 6000), 1.0])
    assert gt.cost_ratio(rt.load(written(tmp_path, [glue_run()], "plain.jsonl"))) is None


def test_same_ranks_counts_shared_seeds(complete):
    assert gt.same_ranks(complete, "rte", "floor", "permuted") == (5, 5)
    assert gt.same_ranks(complete, "rte", "gap", "uniform") == (0, 5)
    assert gt.same_ranks(complete, "rte", "gap", "dora") == (0, 0)


def test_moved_ranks_are_a_share_of_the_budget(tmp_path):
    moved = dict(zip(NAMES, [8, 0, *[4] * 10], strict=True))
    runs = [glue_run("rte"), glue_run("rte", seed=1), glue_run("rte", "gap", ranks=moved), glue_run("rte", "gap", 1, ranks=moved)]
    absent = {name: rank for name, rank in moved.items() if rank}  # a matrix without an adapter
    study = rt.load(written(tmp_path, [*runs, glue_run("rte", "floor"), glue_run("rte", "permuted", ranks=absent)]))
    assert gt.moved_ranks(study, "rte", "gap") == gt.moved_ranks(study, "rte", "permuted") == pytest.approx(4 / 48)
    assert gt.moved_ranks(study, "rte", "floor") == 0
    assert np.isnan(gt.moved_ranks(study, "stsb", "gap")) and np.isnan(gt.moved_ranks(study, "rte", "gap", "adalora"))
    assert gt.same_ranks(study, "rte", "gap", "permuted") == (0, 1)


def test_ranks_at_a_rate_given_up_do_not_count(tmp_path, estimates):
    other = dict(zip(NAMES, [0, 8] * 6, strict=True))
    old = [glue_run("rte", m, seed, rate=RATES[0], ranks=other) for m in ("adalora", "gap") for seed in range(3)]
    new = [glue_run("rte", m, seed, ranks=dict.fromkeys(NAMES, 4)) for m in ("gap", "uniform") for seed in range(2)]
    new += [glue_run("rte", "adalora", seed) for seed in range(2)]
    tuning = [run for m in ("adalora", "gap") for run in tuning_run("rte", m, 1)]
    study = rt.load(written(tmp_path, [*old, *new, *tuning]))
    assert gt.same_ranks(study, "rte", "gap", "uniform") == (2, 2) and gt.moved_ranks(study, "rte", "gap") == 0
    found = gs.adalora_and_gaps(study, estimates)["rte"]
    assert found["seeds"] == 2 and found["ranks"].tolist() == [4.5] * 12
    without_tuning = rt.load(written(tmp_path, [*old, *new], "untuned.jsonl"))
    assert gs.adalora_and_gaps(without_tuning, estimates)["rte"]["seeds"] == 5


# --- Estimates --------------------------------------------------------------------------------------------------------


@pytest.fixture
def estimates(tmp_path):
    sizes = [estimate(examples=n) for n in (64, 128, 256, 1024, 2048)]
    drawn = [estimate(head=head, draw=draw) for head in ("warm", "fresh") for draw in range(2)]
    return rt.load(written(tmp_path, [*sizes, *drawn, estimate("mrpc")], "estimates.jsonl"))


def test_estimates_without_a_study(estimates):
    everything(rt.load("none"), estimates)
    rows = gs.draws(estimates, "rte")
    assert len(rows) == 4 and len(gs.draws(estimates, "mrpc")) == 1 and not len(gs.draws(estimates, "sst2"))
    assert gs.draw_agreement(rows, "energy:0.9") == (1.0, pytest.approx(1.0))
    same, order = gs.draw_agreement(rows, "gap")
    assert same == 1 and np.isnan(order)
    assert np.isnan(gs.draw_agreement(gs.draws(estimates, "mrpc"), "gap")).all()


def test_extrapolation_is_exact_where_its_law_holds(estimates):
    found = gs.clearances(estimates)
    n, clearance = found["rte"]
    assert n.tolist() == [64, 128, 256, 512, 1024, 2048] and clearance.shape == (6, 12, 16)
    np.testing.assert_allclose(gs.extrapolated(n, clearance, 512, 2048)[:, 0], clearance[-1][:, 0], rtol=1e-6)
    tests = gs.tested_extrapolations(found)
    np.testing.assert_allclose(tests["factor"], 1, rtol=1e-6)
    assert (tests["unchanged"] > 1.2).all() and (tests["predicted"] == tests["observed"]).all()
    np.testing.assert_allclose(gs.examples_for_mode(n, clearance, 1), 0.75 * 512, rtol=1e-6)
    assert gs.examples_for_mode(n, clearance, 2) == np.inf
    with pytest.raises(ValueError, match="a line takes two"):
        gs.extrapolated(n, clearance, 64, 2048)


def test_examples_for_a_mode_that_stands_clear_from_the_start_or_never():
    n = np.array([64.0, 128, 256, 512])
    line = lambda a, b: np.sqrt(a + b * n)[:, None, None]  # noqa: E731
    clear, level, later, never = line(1.5, 0.01), line(1.5, 0.0), line(0.25, 0.0025), line(0.5, 0.0)
    assert gs.examples_for_mode(n, clear, 1) == gs.examples_for_mode(n, level, 1) == 64
    assert gs.examples_for_mode(n, never, 1) == np.inf
    assert gs.examples_for_mode(n, np.concatenate([clear, level, later], 1), 1) == 64
    assert gs.examples_for_mode(n, np.concatenate([clear, later, never], 1), 1) == pytest.approx(300)


@pytest.mark.parametrize("rho", [0.0, 0.5])
def test_intervals_of_rank_correlations_hold_as_often_as_they_say(rho):
    """12 pairs of normal numbers, as many as MiniLM has matrices; Spearman's correlation is (6/pi) asin(rho/2)."""
    rng, true, runs = np.random.default_rng(0), 6 / np.pi * np.arcsin(rho / 2), 4000
    held = []
    for _ in range(runs):
        x, y = rng.standard_normal((2, 12))
        found = gs._fisher(x, rho * x + np.sqrt(1 - rho**2) * y)
        held.append(found["low"] <= true <= found["high"])
    assert np.mean(held) == pytest.approx(0.95, abs=0.015)


def test_shorter_records_fill_in(estimates):
    growth = rt.load("gradient-growth")
    found = gs.clearances(estimates, growth)
    assert {"rte", "mrpc", "qnli-mini", "sst2"} <= set(found) and found["sst2"][1].shape[2] == 1
    whole = gs.clearances(rt.load("none"), growth)
    assert set(whole) == {"qnli-mini", "sst2"}


def test_depth(estimates):
    assert gs.depth_correlation(np.arange(12)) == pytest.approx(1)
    assert gs.depth_correlation(np.ones(12)) == 0
    assert gs.depth_correlation([0, 5, 1, 4, 2, 3, 3, 2, 4, 1, 5, 0]) == pytest.approx(0)
    table = gs.spread_over_draws(estimates, ["rte", "sst2"], lambda row: gs.depth_correlation(row["metrics.floor"]))
    assert table.index.tolist() == ["rte"] and table.loc["rte"].tolist() == pytest.approx([1, 1, 1, 2])
    assert gs.spread_over_draws(estimates, ["rte"], len, heads=("fresh", "warm")).loc["rte", "draws"] == 4
    assert gs.spread_over_draws(estimates, ["rte"], len, least=3).empty


def test_adalora_against_gaps(complete, estimates):
    found = gs.adalora_and_gaps(complete, estimates)
    assert set(found) == {"rte"}
    pair = found["rte"]
    assert pair["seeds"] == 5 and pair["low"] <= pair["correlation"] <= pair["high"]
    assert pair["correlation"] == pytest.approx(stats.spearmanr(pair["gaps"], pair["ranks"]).statistic)
    assert -1 <= pair["reliability"] <= 1 and np.isnan(pair["most"]) == (pair["reliability"] <= 0)


def test_scatter_is_divided_out():
    pair = {"correlation": 0.4, "low": -0.1, "high": 0.7, "seeds": 5, "reliability": 0.2, "most": 0.5}
    table = gs.disattenuated({"rte": pair, "cola": pair | {"seeds": 2}, "mrpc": pair | {"reliability": -0.1, "most": np.nan}})
    assert table.index.tolist() == ["rte"] and table.loc["rte"].tolist() == pytest.approx([0.8, -0.2, 1.0])
    finding = claims.assess("P2-fig3b", claims.Measurement(*(tuple(table[c]) for c in ("correlation", "low", "high"))))
    assert finding.verdict == claims.OPEN
    assert gs.disattenuated({}).empty


def test_a_task_looks_the_same_in_every_figure(estimates):
    study = rt.load("gradient-growth")
    growth, depth = gf.growth_figure(gs.clearances(estimates, study)), gf.depth_figure(estimates, ["mrpc", "rte"])
    looks = [{line.get_label(): line.get_color() for line in f.axes[0].lines if line.get_label()[0] != "_"} for f in (growth, depth)]
    for name in ("RTE", "MRPC"):
        assert looks[0][name] == looks[1][name]
    assert {"SST-2", "QNLI (mini)"} <= set(looks[0])
    low, high = growth.axes[1].get_xlim()
    assert all(low <= tick <= high for tick in growth.axes[1].get_xticks())
    assert gt.task_name("stsb") == "STS-B" and gt.task_name("my-task") == "my-task"
    assert gf._look("my-task") == gf._look("other")


@settings(deadline=None, max_examples=40)
@given(st.lists(st.floats(0.01, 10), min_size=3, max_size=8), st.data())
def test_gaps_by_hand(values, data):
    values = sorted(values, reverse=True)
    assert gs.largest_gaps(values) == pytest.approx(max(a - b for a, b in itertools.pairwise(values)))


# --- The truth --------------------------------------------------------------------------------------------------------


def planted_run(rule, seed=0, **changes):
    ranks = dict(zip(NAMES, [2] * 6 + [0] * 6, strict=True))
    metrics = {
        "ranks": dict.fromkeys(NAMES, 1), "planted_ranks": ranks, "error": 1.0, "exact": 0.0, "within_one": 1.0,
        "correlation": None, "parameters": 100, "planted_parameters": 90, "excess": 0.1, "gain": 0.02,
    }  # fmt: skip
    return {"config": {**PLANTED, "rule": rule, "seed": seed, **changes}, "metrics": metrics}


def test_leaderboard_takes_its_setting_only(tmp_path):
    light = planted_run("gap", steps=20)
    board, alone = gt.leaderboard(rt.load(written(tmp_path, [planted_run("gap"), planted_run("floor"), light])))
    assert board["seeds"].to_dict() == {"gap": 1, "floor": 1} and alone is None
    rows = [planted_run("gap", planted=[NAMES[0]], steps=0)]
    board, alone = gt.leaderboard(rt.load(written(tmp_path, rows, "alone.jsonl")))
    assert board is None and alone.loc["gap", "problems"] == 1


def test_oracle_waits_for_a_whole_seed(tmp_path):
    common = {"study": "oracle", "modules": [], "seed": 0}
    runs = [
        {"config": {**common, "unit": unit, "unit_rank": rank}, "metrics": {"loss": 1 - rank / 100}}
        for rank in (0, 8) for unit in ("a", "b", None) if unit or rank == 0
    ]  # fmt: skip
    runs[2]["config"]["unit_rank"] = 4
    assert gt.oracle_values(rt.load(written(tmp_path, runs[:4]))) is None
    values = gt.oracle_values(rt.load(written(tmp_path, runs, "whole.jsonl")))
    np.testing.assert_allclose(values.to_numpy(), 0.08)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10_000))
def test_greedy_loses_at_most_the_first_rejected_gain(seed):
    rng = np.random.default_rng(seed)
    gains = {name: np.sort(rng.uniform(0.1, 9, rng.integers(1, 5)))[::-1].tolist() for name in "abc"}
    costs, budget = {name: int(rng.integers(1, 9)) for name in "abc"}, int(rng.integers(1, 40))
    ranks, rejected = gt.greedy(gains, costs, budget)
    spent = sum(rank * costs[name] for name, rank in ranks.items())
    got = sum(sum(gains[name][:rank]) for name, rank in ranks.items())
    best = allocate({name: np.sqrt(2 * np.array(row)) for name, row in gains.items()}, costs, budget).gain
    assert spent <= budget and got <= best + 1e-9 <= got + rejected + 2e-9
    if spent == budget or len(set(costs.values())) == 1:
        assert got == pytest.approx(best)


@pytest.mark.parametrize("effect, spread, n", [(0.8, 0.5625, 5), (2.0, 1.0, 4)])
def test_power_is_the_inverse_of_the_smallest_effect(effect, spread, n):
    smallest = minimum_detectable_effect(spread, n)
    assert paired_power(smallest, spread, n) == pytest.approx(0.8, abs=1e-6)
    assert paired_power(effect, spread, n, one_tailed=True) > paired_power(effect, spread, n)


def test_words_and_printed_differences():
    words = "above", "below", "either"
    assert [rt.within(0, *ends, words) for ends in ((1, 2), (-2, -1), (-1, 1))] == list(words)
    assert gt.printed_difference(PRINTED_3, "rte", "gap", "adalora") == pytest.approx(1.9)
    assert gt.printed_difference(PRINTED_3, "rte", "floor") is None


def test_figures_of_live_results():
    rng = np.random.default_rng(0)
    spectra = {name: GradientSpectrum(np.sort(rng.random(20))[::-1], rng.random(9), (20, 20), 64) for name in NAMES}
    figure = gf.spectra_grid(spectra)
    assert len(figure.axes) == 12 and figure.axes[0].get_title() == "layer 0" and figure.axes[6].get_title() == ""
    assert gf.matrix_labels(NAMES)[:3] == ["0.Q", "0.V", "1.Q"]
    ax = gf.rank_grid({"a": range(12), "b": [1.5] * 12}, gf.matrix_labels(NAMES))
    assert len(ax.texts) == 24 and ax.texts[-1].get_text() == "1.5"
    ax = gf.planted_figure(dict.fromkeys(NAMES, 2), {"gap": dict.fromkeys(NAMES, 1)})
    assert len(ax.patches) == 12
    ax = gf.detectable_figure({"pilot": 2.0}, {"effect": 1.0}, [3, 5, 10])
    assert ax.lines[0].get_ydata()[1] == pytest.approx(minimum_detectable_effect(2.0, 5))


# --- Exercises --------------------------------------------------------------------------------------------------------


def seeds_needed(effect, spread):
    return next(n for n in range(2, 1000) if minimum_detectable_effect(spread, n) <= effect)


def planted_spectra():
    planted = dict(zip(NAMES, [1, 2, 3] * 4, strict=True))
    values = {name: np.concatenate([3.0 - 0.1 * np.arange(rank), [0.5, 0.4]]) for name, rank in planted.items()}
    values = {name: np.concatenate([[9.0], row[1:]]) for name, row in values.items()}
    return {name: GradientSpectrum(row, np.ones(9), (20, 20), 64) for name, row in values.items()}, planted


def test_right_answers_pass():
    assert checks.glue_seeds(seeds_needed)
    assert checks.glue_exchange(lambda ranks, costs: len(set(ranks.values())) == 1 or len(set(costs.values())) == 1)
    assert checks.glue_greedy({"small": [1.1], "large": [100.0]}, {"small": 1, "large": 100}, 100)
    assert checks.glue_rule(lambda s: int(np.sum(s.singular_values > s.noise_floor)), *planted_spectra())


@pytest.mark.parametrize(
    "check, answer, hint",
    [
        (checks.glue_seeds, lambda effect, spread: 5, "seeds find"),
        (checks.glue_seeds, lambda effect, spread: 500, "would do"),
        (checks.glue_exchange, lambda ranks, costs: True, "exchanges change"),
        (checks.glue_exchange, lambda ranks, costs: len(set(costs.values())) == 1, "exchanges change"),
    ],
)
def test_wrong_answers_get_a_hint(check, answer, hint):
    with pytest.raises(AssertionError, match=hint):
        check(answer)


def test_wrong_instances_and_rules_get_a_hint():
    with pytest.raises(AssertionError, match="not below a tenth"):
        checks.glue_greedy({"A": [7], "B": [5, 5]}, {"A": 6, "B": 5}, 10)
    with pytest.raises(AssertionError, match="must not increase"):
        checks.glue_greedy({"A": [1, 2]}, {"A": 1}, 1)
    with pytest.raises(AssertionError, match="one rank to all"):
        checks.glue_rule(lambda s: 2, *planted_spectra())
    with pytest.raises(AssertionError, match="mean error"):
        checks.glue_rule(lambda s: 19 if s.singular_values[1] > 1 else 18, *planted_spectra())


def test_what_rank_is_worth_is_drawn_by_layer_and_by_matrix():
    live_spectra, _ = planted_spectra()
    units = sorted({name.rpartition(".")[0] for name in live_spectra})
    for index, label in ((units, "layer"), (list(live_spectra), "matrix (layer, query or value)")):
        worth = pd.DataFrame(np.random.default_rng(0).normal(size=(len(index), 2)), index=index)
        shares = {rule: gt.unit_ranks(rule, live_spectra, index) for rule in ("gap", "floor")}
        assert sum(shares["gap"].values()) == sum(gt.unit_ranks("gap", live_spectra, list(live_spectra)).values())
        assert gt.seed_correlations(worth) == [pytest.approx(stats.spearmanr(worth[0], worth[1]).statistic)]
        above, below = gf.worth_figure(worth, shares).axes
        assert below.get_xlabel() == label and len(above.patches) == len(index) and len(below.lines) == 2
        assert sum(below.lines[0].get_ydata()) == pytest.approx(100)
    assert all(not ax.axison for ax in gf.worth_figure(None, {}).axes)


def test_every_method_that_was_run_is_compared(tmp_path):
    runs = [*final_runs(("stsb",), range(2)), *(glue_run("stsb", m, n, 79.0 + n) for m in ("eva", "threshold:4.3e-05") for n in (0, 1))]
    table = rt.comparison(gt.final(rt.load(written(tmp_path, runs))))
    assert gt.compared_methods(table) == ["gap", "floor", "permuted", "adalora", "eva", "threshold:4.3e-05"]
    assert gt.compared_methods(table.iloc[:0]) == ["gap", "floor", "permuted", "adalora"]
    text = gt.comparison_text(table).split("\n")
    assert len({line.index("[") for line in text[1::2]}) == 1 and any(" threshold " in line for line in text)
    ax = gf.differences_figure(table, PRINTED_3, gt.compared_methods(table)).axes[0]
    assert ax.get_yticklabels()[-1].get_text() == "threshold" and ax.get_title() == "STS-B"
    for judges, title in ((["stsb"], "STS-B"), ([], "STS-B (no judge)")):
        assert gf.differences_figure(table, PRINTED_3, ["gap"], judges=judges).axes[0].get_title() == title
