"""The chapter *Tucker-LoRA on CIFAR-100*: its bounds, exercises, and tables and figures from whatever its record holds."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from companion import data
from companion.book import checks, record_tables as rt, vision_budgets as vb, vision_figures as figures, vision_tables as vt
from companion.gradients import mean_gradients
from companion.matched_adapters import Place
from companion.runs import append_record
from companion.tucker import Tucker, parameter_counts
from companion.tucker_ranks import gradient_mode_spectra
from companion.tuning import TUNING_SEED
from companion.vision_run import VISION_SETTING
from companion.vision_study import ABLATION

seeds = st.integers(0, 10**6)


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


# --- What a budget can keep -------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=40)
@given(seeds, st.integers(1, 4), st.integers(1, 5), st.data())
def test_tucker_keeps_no_more_than_lora_of_its_third_rank_and_less_than_twice_the_cost(seed, d1, d2, draw):
    rng, d = np.random.default_rng(seed), d1 * d2
    r1, r2 = draw.draw(st.integers(1, d1)), draw.draw(st.integers(1, d2))
    r3 = draw.draw(st.integers(1, min(d, r1 * r2)))
    tensors = {"a": rng.standard_normal((d1, d2, d))}
    share = vb.kept_by_tucker(tensors, (r1, r2, r3))
    assert share <= vb.kept_by_lora(tensors, r3) + 1e-12
    cost = parameter_counts((d1, d2, d), (r1, r2, r3)).tucker
    assert cost >= d * r3 + r3**2 + 2 * np.sqrt(d * r3) - 1e-9 and 2 * d * r3 < 2 * cost


@settings(deadline=None, max_examples=20)
@given(seeds, st.integers(1, 4), st.integers(1, 5), st.data())
def test_with_full_factors_on_the_heads_tucker_is_lora(seed, d1, d2, draw):
    rank = draw.draw(st.integers(1, d1 * d2))
    tensors = {"a": np.random.default_rng(seed).standard_normal((d1, d2, d1 * d2))}
    assert vb.kept_by_tucker(tensors, (d1, d2, rank)) == pytest.approx(vb.kept_by_lora(tensors, rank))
    cost = parameter_counts((d1, d2, d1 * d2), (d1, d2, rank)).tucker
    assert cost == d1**2 + d2**2 + 2 * d1 * d2 * rank


def test_what_is_kept_of_a_planted_tensor_and_of_its_shuffle():
    rng = np.random.default_rng(0)
    factors = [np.linalg.qr(rng.standard_normal((d, r)))[0] for d, r in ((4, 1), (6, 2), (24, 2))]
    tensors = {"a": Tucker(rng.standard_normal((1, 2, 2)), factors).to_tensor()}
    shuffled = vb.rows_shuffled(tensors, rng)
    assert vb.kept_by_tucker(tensors, (1, 2, 2)) == pytest.approx(1) == vb.kept_by_lora(tensors, 2)
    assert vb.kept_by_lora(shuffled, 2) == pytest.approx(1) and vb.kept_by_tucker(shuffled, (1, 2, 2)) < 0.95
    assert sorted(shuffled["a"].ravel()) == sorted(tensors["a"].ravel())


def test_gradients_as_tensors_have_heads_first_on_either_side():
    model = data.load_model("vit-cifar50", 3, seed=0)
    frame = data.load_images("fashion-mnist-mini", classes=[0, 1, 2]).iloc[:12]
    place = Place(model, batches=data.make_image_dataloader(frame))
    gradients = mean_gradients(model, place.batches, list(place.modules)[:4], flips=0)
    tensors, spectra = vb.gradient_tensors(gradients, model), gradient_mode_spectra(gradients, model)
    for name, tensor in tensors.items():
        assert tensor.shape == (6, 32, 192)
        for mode in range(3):
            values = np.linalg.svd(np.moveaxis(tensor, mode, 0).reshape(tensor.shape[mode], -1), compute_uv=False)
            assert spectra[name][mode].singular_values == pytest.approx(values)
    sizes = vb.adapter_sizes(gradients, [9216], classes=3)
    assert sizes.loc["lora", 9216] == 9216 and np.isnan(sizes.loc["loha", 9216]) and (sizes.drop("loha") <= 9216).all().all()


def test_parameters_of_vit_b_16():
    assert vb.vit_parameters((4, 2, 2)) == 82_944
    assert vt.parameters_of(["(4, 2, 2)"]) == {"(4, 2, 2)": 24 * (16 + 4 * 6 + 2 * 32 + 2 * 192)}


# --- Records ----------------------------------------------------------------------------------------------------------


def vision_run(method="lora", score=35.0, seed=0, budget=4, split="test", rate=3e-3, ranks=None, **metrics):
    rank = None if budget is None else float(budget)
    config = {
        **VISION_SETTING, "rank": rank, "ranks": ranks, "task": "cifar100", "method": method, "parameter": None,
        "learning_rate": None if method == "probe" else rate, "seed": seed, "split": split,
    }  # fmt: skip
    chosen = {"r": ranks or [6, 13, 4]} if method == "tucker" else {}
    found = {"score": score, "parameters": 36_000, "train_loss": 2.0, "ranks": chosen, **metrics}
    return {"metrics": found, "config": config, "seconds": 50.0, "date": f"2026-01-01T00:00:{seed % 60:02d}+00:00"}


def tuned(method, budget, best=1, ranks=None):
    return [
        vision_run(method, 30 - abs(place - best), TUNING_SEED, budget, "tuning", rate, ranks)
        for place, rate in enumerate((1e-3, 3e-3, 9e-3))
    ]


def written(tmp_path, runs):
    for run in runs:
        append_record(tmp_path / "runs.jsonl", run)
    return rt.load(tmp_path / "runs.jsonl")


def complete(lead=1.0, triples=((4, 2, 2), (1, 1, 1), (6, 6, 6))):
    rng = np.random.default_rng(0)
    for budget in vt.BUDGETS:
        yield from tuned("lora", budget)
        yield from tuned("tucker", budget)
        for seed in range(5):
            base = 35 + rng.normal()
            yield vision_run("lora", base, seed, budget, parameters=int(9216 * budget))
            yield vision_run("tucker", base + lead + 0.1 * rng.normal(), seed, budget, parameters=int(9000 * budget), train_loss=2.25)
    for seed in range(5):
        yield vision_run("probe", 30 + rng.normal(), seed, None, parameters=0)
        yield vision_run("full", 37 + rng.normal(), seed, None, parameters=2_700_000, rate=1e-4)
        for method, score in (("tucker-printed", 33.0), ("lora-printed", 33.5)):
            yield vision_run(method, score + seed, seed, None, parameters=5_000 + seed)
    for place, ranks in enumerate(triples):
        yield from tuned("tucker", None, ranks=list(ranks))
        for seed in range(5):
            yield vision_run("tucker", 34 + place + 0.1 * rng.normal(), seed, None, ranks=list(ranks))


def drawn(records):
    """Every table, text and figure of the chapter."""
    scores, runs, triples = vt.budget_scores(records), vt.runs(records), vt.ablation_scores(records)
    compared = rt.comparison(scores[~scores.index.isin(["probe", "full"], "method")], "lora")
    figures.pareto_figure(runs, compared, 2.1)
    sizes = vt.parameters_of(triples.index.unique("method"))
    figures.ablation_figure(triples, sizes, "(4, 2, 2)", runs[runs["method"] == "lora"])
    text = vt.ablation_text(triples, rt.comparison(triples, "(4, 2, 2)"))
    return scores, runs, compared, triples, text + vt.comparison_text(compared) + vt.rates_text(vt.rates(records))


def test_nothing_recorded_is_a_gap_everywhere(tmp_path):
    records = rt.load(tmp_path / "none.jsonl")
    scores, runs, compared, triples, text = drawn(records)
    assert not len(scores) + len(runs) + len(compared) + len(triples) and "No run of the ablation" in text
    assert vt.rank_counts(records, 4) == {} and vt.open_rates(records) == set() and vt.best_means(runs).empty
    assert vt.loss_difference_text(records, 4, "tucker", "lora") == "no two pairs of runs yet"
    assert vt.runs_text(runs) == "No final run is recorded yet."
    assert vt.printed_text(records) == "No run with the ranks of the gap criterion is recorded yet."
    assert np.isnan(vt.differences_together(scores, [("r = 1", "tucker")], "lora")).all()
    assert np.isnan(vt.differences_of_ranks(triples, (4, 2, 2))).all()


def test_tables_of_a_study_that_is_complete(tmp_path):
    records = written(tmp_path, complete())
    scores, runs, compared, triples, text = drawn(records)
    pairs = [(vt.level(b), "tucker") for b in sorted(vt.BUDGETS)]
    differences, halves = vt.differences_together(scores, pairs, "lora")
    assert differences == pytest.approx(np.ones(3), abs=0.15) and "above LoRA" in text
    alone = vt.differences_together(scores, pairs[-1:], "lora")
    assert alone[0] == differences[2] and alone[1] < halves[2]  # three together are wider
    row = compared.loc[pairs[-1]]
    assert alone[1] == pytest.approx((row["high"] - row["low"]) / 2)
    assert set(runs["method"]) == {"lora", "tucker", "probe", "full"} and len(runs) == 40  # the ablation is no budget
    assert set(vt.rates(records)["grid"]) == {"closed"} and vt.rates(records).shape[0] == 6
    assert len(rt.comparison(scores, "probe")) == 9  # the probe stands under every budget
    wins = vt.who_wins(compared).replace("\n    ", " ").split("\n")
    assert wins[0] == "above LoRA: Tucker-LoRA at r = 1; Tucker-LoRA at r = 4; Tucker-LoRA at r = 16" and wins[1] == "below LoRA: none"
    printed = vt.printed_text(records).split("\n")
    assert printed[0].split() == ["Tucker-LoRA", "5,002", "parameters", "35.00", "%", "(5", "seeds)"]
    assert printed[2] == "difference -0.50 [-0.50, -0.50] (5 seeds)"
    tried = ((4, 2, 2), (1, 1, 1), (6, 6, 6))
    minus, half = vt.differences_of_ranks(triples, (4, 2, 2), triples=tried)
    assert minus == pytest.approx([-1, -2], abs=0.2) and (half < 0.6).all()
    assert np.isnan(vt.differences_of_ranks(triples, (4, 2, 2))[0]).sum() == len(ABLATION) - 3  # never run: not settled
    open_one = vt.differences_of_ranks(triples, (4, 2, 2), ["(6, 6, 6)"], tried)
    assert np.isnan(open_one[0]).tolist() == [False, True]
    assert np.isnan(vt.differences_of_ranks(triples, (4, 2, 2), ["(4, 2, 2)"], tried)).all()
    assert vt.rank_counts(records, 4) == {"(6, 13, 4)": 6}
    assert vt.loss_difference_text(records, 4, "tucker", "lora").startswith("+0.250 [+0.250, +0.250] (5")
    assert vt.runs_text(runs).split("\n")[0].split() == ["r", "=", "1", "r", "=", "4", "r", "=", "16", "no", "budget"]


def test_open_grids_and_too_few_seeds_decide_nothing(tmp_path):
    runs = [*tuned("lora", 4), *tuned("tucker", 4, best=2), *tuned("tucker", None, best=0, ranks=[4, 2, 2])]
    rates = {"lora": 3e-3, "tucker": 9e-3}
    runs += [vision_run(method, 30 + seed, seed, rate=rate) for method, rate in rates.items() for seed in range(3)]
    records = written(tmp_path, runs)
    unfinished = rt.open_grids(vt.rates(records))
    assert unfinished == {("r = 4", "tucker")} and vt.open_rates(records) == {"(4, 2, 2)"}
    scores, pair = vt.budget_scores(records), [("r = 4", "tucker")]
    assert np.isfinite(vt.differences_together(scores, pair, "lora")).all()
    assert np.isnan(vt.differences_together(scores, pair, "lora", unfinished)).all()
    few = scores.drop(2, level="seed")
    assert len(rt.comparison(few, "lora")) == 1 and np.isnan(vt.differences_together(few, pair, "lora")).all()


def test_budgets_are_one_run_however_they_are_written(tmp_path):
    records = written(tmp_path, complete())
    assert vt.budget_scores(records, budgets=[4]).equals(vt.budget_scores(records, budgets=[4.0])) and len(vt.rates(records, budgets=[1])) == 2


@given(st.lists(st.tuples(st.integers(1, 5), st.integers(1, 5)), min_size=1, max_size=8))
def test_the_frontier_is_what_no_other_point_beats(points):
    import pandas as pd

    table = pd.DataFrame(points, columns=["parameters", "score"])
    kept = vt.frontier(table)
    for (p, a), on in zip(points, kept, strict=True):
        assert on == (not any((q <= p and b > a) or (q < p and b >= a) for q, b in points))
    assert kept.any()


# --- Exercises --------------------------------------------------------------------------------------------------------


def test_checks_refuse_what_is_wrong():
    wrong = [
        (checks.vision_frontier, lambda points: points),
        (checks.vision_frontier, lambda points: [max(points, key=lambda p: p[1])]),
        (checks.vision_match, lambda ranks, dims: round(parameter_counts(dims, ranks).tucker / (dims[0] * dims[1] + dims[2])) + 1),
        (checks.vision_heads, lambda dims, rank, rng: rng.standard_normal(dims)),
        (checks.vision_heads, lambda dims, rank, rng: np.zeros((1, 2, 3))),
    ]
    for check, answer in wrong:
        with pytest.raises(AssertionError):
            check(answer)
