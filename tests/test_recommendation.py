"""What is recommended follows from the records, whatever they say."""

import numpy as np
import pandas as pd
import pytest

from companion.advice import Assessment
from companion.glue_run import SETTING
from companion.recommendation import evidence, recommend, sufficient_rank
from companion.runs import read_records

SIGNAL = Assessment(12, 12, 30, 512, 0.1, 1e-5, 100.0, 80.0)
NOISE = Assessment(12, 1, 1, 512, 0.1, 0.5, np.inf, 900.0)


def study(scores, setting=SETTING):
    """Records with the scores of (task, method, seed), as `read_records` gives them."""
    rows = []
    for (task, method, seed), score in scores.items():
        name, _, parameter = method.partition(":")
        config = {**setting, "task": task, "method": name, "parameter": float(parameter) if parameter else None, "seed": seed}
        config |= {"split": "validation", "learning_rate": 1e-3}
        rows.append({"key": str(len(rows)), "config": config, "metrics": {"score": score}})
    return pd.json_normalize(rows, max_level=1)


def runs(gains, methods=("floor",), spread=0.1, seeds=5, probe=-10):
    rng = np.random.default_rng(0)
    scores = {}
    for task, gain in gains.items():
        for seed in range(seeds):
            scores[task, "uniform", seed] = 80 + rng.normal()
            scores[task, "probe", seed] = 80 + probe
            for method in methods:
                scores[task, method, seed] = scores[task, "uniform", seed] + gain + spread * rng.normal()
    return study(scores)


def test_a_gain_that_the_study_shows_recommends_the_ranks():
    found = recommend("floor", SIGNAL, runs({"stsb": 1.0, "rte": 0.8, "mrpc": 1.2}))
    assert found.use_ranks and found.evidence.tasks == ("mrpc", "rte", "stsb") and found.evidence.pairs == 15
    assert found.evidence.gain.low > 0 and found.evidence.gain.value == pytest.approx(1.0, abs=0.1)
    assert str(found).startswith("Recommendation: use these ranks: the study shows a gain. Recorded study (minilm")


@pytest.mark.parametrize(
    "gains, assessment, reason",
    [
        ({"stsb": 1.0, "rte": 1.0}, NOISE, "mostly read off noise"),
        ({"stsb": 1.0, "rte": 1.0}, None, "without a noise floor"),
        ({"stsb": 0.0, "rte": 0.0}, SIGNAL, "no gain"),
        ({"stsb": -1.0, "rte": -1.0}, SIGNAL, "shows a loss"),
        ({"stsb": 2.0, "rte": -2.0}, SIGNAL, "no gain"),
    ],
)
def test_else_one_rank_for_all(gains, assessment, reason):
    found = recommend("floor", assessment, runs(gains))
    assert not found.use_ranks and reason in str(found) and "use uniform r=4" in str(found)


def test_one_task_is_judged_over_its_seeds():
    records = runs({"stsb": 1.0})
    assert evidence("floor", records).gain.low > 0
    assert evidence("floor", runs({"stsb": 1.0}, seeds=2)) is None


def test_other_settings_and_rules_do_not_count():
    records = runs({"stsb": 1.0, "rte": 1.0}, methods=("energy:0.9",))
    assert evidence("energy:0.9", records) == evidence("energy:0.90", records) is not None
    assert evidence("energy:0.8", records) is None and evidence("floor", records) is None
    assert evidence("energy:0.9", records, {**SETTING, "epochs": 10}) is None
    assert "no comparison of gap" in str(recommend("gap", SIGNAL, records))


def test_the_smallest_rank_that_is_as_good():
    scores = {(r, seed): 80 + min(r, 8) / 10 + 0.01 * seed for r in (2, 4, 8, 16) for seed in range(3)}
    parts = [study({("stsb", "uniform", seed): scores[r, seed] for seed in range(3)}, {**SETTING, "rank": r}) for r in (2, 4, 8, 16)]
    parts.append(study({("stsb", "probe", seed): 60.0 for seed in range(3)}))
    assert sufficient_rank(pd.concat(parts)) == 4
    assert sufficient_rank(pd.concat(parts), margin=0.1) == 8
    assert sufficient_rank(pd.concat(parts), margin=5) == 2
    assert sufficient_rank(runs({"stsb": 0.0})) == 4


def test_no_final_run_is_no_evidence():
    tuning = runs({"stsb": 1.0}).assign(**{"config.split": "tuning"})
    for records in (tuning, tuning[:0], pd.DataFrame()):
        assert evidence("floor", records) is None and sufficient_rank(records) == 4


def test_the_recorded_study_is_read():
    text = str(recommend("floor", SIGNAL, read_records("glue")))
    assert text.startswith("Recommendation: use ") and text.endswith(".")


def test_a_task_where_lora_is_no_better_than_the_probe_is_no_evidence():
    same, better = runs({"mrpc": 2.0}, probe=0), runs({"stsb": 0.0})
    assert evidence("floor", same) is None and evidence("floor", pd.concat([same, better])).tasks == ("stsb",)
    assert evidence("floor", same[same["config.method"] != "probe"]) is None
    wide = study({("mrpc", "uniform", seed): 90.0 for seed in range(3)}, {**SETTING, "rank": 16})
    assert sufficient_rank(pd.concat([same, wide])) == 4


def test_two_runs_of_one_seed_are_not_passed_over():
    records = runs({"stsb": 1.0})
    twice = pd.concat([records, records.assign(**{"config.date": "later"})])
    with pytest.raises(ValueError, match="two runs of"):
        evidence("floor", twice)
