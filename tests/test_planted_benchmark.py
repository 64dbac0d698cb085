"""Planted ranks: the teacher is what it says, scores are what they say, and nothing but the seed decides."""

import numpy as np
import pytest
import torch

from companion import data, leaderboard
from companion.book.planted import planted_layer, spiked_examples
from companion.gradients import gradient_spectra
from companion.leaderboard import alone_runs, calibrated_constant, leaderboard_runs, run, score_rule
from companion.planted_benchmark import LIGHT, PROFILES, SETTING, Planted, plant, rank_recovery, shifted
from companion.rank_rules import make_rule
from companion.read_out import ReadOut, mean_loss, outputs_of, squared_error
from companion.students import even_ranks, seeded_lora, student_loss
from companion.study import read_records, run_study
from companion.truth_tables import alone_table, planted_table


@pytest.fixture(scope="session")
def small(lively_folder):
    sizes = {"outputs": 8, "examples": 96, "test_examples": 32, "steps": 12}
    return LIGHT | sizes | {"model": lively_folder, "noise": 0.0, "seed": 3}


@pytest.fixture(scope="session")
def problem(small):
    return plant(small)


def knows(planted: Planted):
    """The rule that returns the planted ranks."""
    answers = {id(planted.spectra[name]): rank for name, rank in planted.ranks.items()}
    return lambda spectrum: answers[id(spectrum)]


def test_true_ranks_are_recovered_perfectly_without_excess(problem):
    found = score_rule(knows(problem), problem)
    assert found["ranks"] == problem.ranks
    assert (found["error"], found["exact"], found["within_one"], found["excess"]) == (0, 1, 1, 0)
    assert found["correlation"] == pytest.approx(1) and found["parameters"] == found["planted_parameters"]
    assert found["loss"] < found["start_loss"]


def test_updates_have_the_planted_rank_and_profile(small):
    for profile, shape in PROFILES.items():
        planted = plant(small | {"profile": profile, "examples": 16, "test_examples": 8})
        assert set(planted.updates) == {name for name, rank in planted.ranks.items() if rank} != set()
        for name, update in planted.updates.items():
            values, rank = torch.linalg.svdvals(update.double()).numpy(), planted.ranks[name]
            np.testing.assert_allclose(values[:rank] / values[0], shape(rank), rtol=1e-4)
            assert values[rank:].max() < 1e-5 * values[0]


def test_updates_lie_where_inputs_differ(small):
    planted = plant(small | {"examples": 16, "test_examples": 8, "largest_rank": 2})
    for name, update in planted.updates.items():  # a layer norm keeps the mean over features at 0
        ones = torch.ones(update.shape[1]) / update.shape[1] ** 0.5
        assert torch.linalg.norm(update @ ones) < 1e-3 * torch.linalg.norm(update), name


def test_strength_is_the_change_of_the_outputs(small):
    planted = plant(small | {"examples": 64, "strength": 0.4})
    assert mean_loss(planted.student, planted.train) == pytest.approx(0.16, rel=0.05)  # the 64 texts it was set on
    with planted.teacher() as teacher:
        assert mean_loss(teacher, planted.train) == mean_loss(teacher, planted.test) == 0


def test_planted_matrices_are_equally_visible_for_their_rank(small):
    planted = plant(small | {"examples": 64, "strength": 0.01})
    found = []
    for name, update in planted.updates.items():
        planted.train.dataset.labels = outputs_of(planted.student, planted.train)
        with shifted(planted.student, {name: update}):
            found.append(mean_loss(planted.student, planted.train) / planted.ranks[name])
    assert max(found) < 1.3 * min(found)


@pytest.mark.parametrize("change", [{"strength": 0.0}, {"largest_rank": 0}])
def test_a_teacher_without_update_is_the_base(small, change):
    planted = plant(small | change | {"examples": 16})
    assert planted.updates == {} and mean_loss(planted.student, planted.train) == 0
    with planted.teacher() as teacher:
        np.testing.assert_array_equal(outputs_of(teacher, planted.train), planted.train.dataset.labels)
    with pytest.raises(ValueError, match="the teacher is the student"):
        score_rule("gap", planted)


def test_noise_is_on_training_labels_only_and_as_large_as_said(small):
    clean, noisy = plant(small | {"examples": 32}), plant(small | {"examples": 32, "noise": 0.3})
    np.testing.assert_array_equal(clean.test.dataset.labels, noisy.test.dataset.labels)
    with noisy.teacher() as teacher:
        assert mean_loss(teacher, noisy.train) == pytest.approx(0.09, rel=0.1)


def test_same_seed_same_problem_and_scores(small, problem):
    again, other = plant(small), plant(small | {"seed": 4})
    assert again.ranks == problem.ranks and all(torch.equal(u, problem.updates[n]) for n, u in again.updates.items())
    first, second = score_rule("energy:0.9", problem), score_rule("energy:0.9", again)
    assert first == second
    assert (other.ranks, list(other.frame.index)) != (problem.ranks, list(problem.frame.index))


def test_the_student_and_the_global_state_are_left_alone(small):
    planted, state = plant(small | {"examples": 32}), torch.get_rng_state()
    before = {name: value.clone() for name, value in planted.student.state_dict().items()}
    score_rule("energy:0.5", planted)
    assert all(torch.equal(value, before[name]) for name, value in planted.student.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)


def test_one_planted_matrix_alone(small):
    planted = plant(small | {"planted": ["layer.1.attention.self.value"], "largest_rank": 0, "examples": 16})
    assert sorted(planted.ranks.values()) == [0, 0, 0, 1]
    assert list(planted.updates) == ["encoder.encoder.layer.1.attention.self.value"]
    with pytest.raises(ValueError, match="planted: .*layer.0.attention.self.key is not one of the targets"):
        plant(small | {"planted": ["key"]})


def test_rules_get_ranks_from_zero_to_the_matrix_only(problem):
    for answer in (-1, 33, 2.0, None):
        with pytest.raises(ValueError, match="accepted: an integer from 0 to 32"):
            score_rule(lambda spectrum, answer=answer: answer, problem)


def test_large_answers_count_as_errors_and_are_cut_for_training(problem):
    found = score_rule("uniform:32", problem)
    assert found["error"] == 32 - np.mean(list(problem.ranks.values())) and found["correlation"] is None
    assert found["parameters"] == 16 * 4 * 64 and found["gain"] == 0  # as many parameters, evenly: the same ranks
    nothing = score_rule("uniform:0", problem)
    assert nothing["loss"] == nothing["start_loss"] and nothing["parameters"] == nothing["gain"] == 0


def linear_spectra(ranks, n, seed=0):
    """The linear double: matrices whose gradient is the planted matrix and noise, nothing else."""
    rng, spectra = np.random.default_rng(seed), {}
    for name, rank in ranks.items():
        strengths = (np.array([3.0] * rank) * np.sqrt(n / 256)).tolist()  # the same matrix for every n
        model, batches, loss = planted_layer(spiked_examples(n, strengths, (24, 16), rng), 64)
        spectra[name] = gradient_spectra(model, batches, ["layer"], loss, flips=19, rng=rng)["layer"]
    return spectra


def test_in_the_linear_double_the_floor_recovers_ranks_given_enough_examples():
    ranks = {f"m{i}": i for i in range(6)}
    errors = []
    for n in (16, 32, 256):
        found = {name: make_rule("floor")(s) for name, s in linear_spectra(ranks, n).items()}
        errors.append(rank_recovery(found, ranks)["error"])
    assert errors[0] > errors[1] > errors[2] and errors[0] > 1 and errors[2] < 0.35, errors


def test_a_constant_from_another_problem_recovers_ranks_in_the_linear_double():
    ranks = {f"m{i}": i for i in range(6)}
    planted = Planted(None, ranks, {}, None, None, None, {})
    planted.__dict__["spectra"] = linear_spectra(ranks, 256, seed=1)
    rule = make_rule(f"threshold:{calibrated_constant(planted)}")
    found = {name: rule(s) for name, s in linear_spectra(ranks, 256, seed=2).items()}
    assert rank_recovery(found, ranks)["error"] < 0.35


def test_recovery_of_known_answers():
    planted = {"a": 0, "b": 2, "c": 4, "d": 6}
    found = rank_recovery({"a": 1, "b": 2, "c": 6, "d": 7}, planted)
    assert found == {"error": 1.0, "exact": 0.25, "within_one": 0.75, "correlation": pytest.approx(1)}
    assert rank_recovery(dict.fromkeys(planted, 3), planted)["correlation"] is None
    with pytest.raises(ValueError, match="found: got ranks of"):
        rank_recovery({"a": 1}, planted)


@pytest.mark.parametrize(
    "change, match",
    [
        ({"profile": "steep"}, "profile: got 'steep'; accepted: flat, exponential, power"),
        ({"read_out": "last"}, "read_out: got 'last'; accepted: tokens, first"),
        ({"noise": -1.0}, "noise: got -1.0"),
        ({"strength": float("nan")}, "strength must be finite"),
        ({"outputs": 17}, "outputs: got 17; accepted: at most half of 32"),
        ({"examples": 99999}, "99999"),
        ({"largest_rank": 33}, "largest_rank: got 33; accepted: at most 32"),
        ({"strength": 1e4}, "strength: got 10000.0; the outputs change by"),
        ({"learning_rate": float("inf")}, "learning_rate"),
    ],
)
def test_bad_settings_are_named(small, change, match):
    with pytest.raises((ValueError, TypeError), match=match):
        student_loss(planted := plant(small | {"examples": 16} | change), planted.ranks)


def test_reading_at_the_first_token_only(small):
    planted = plant(small | {"read_out": "first", "examples": 80})
    assert planted.train.dataset.labels.shape == (80, 1, 8)
    assert student_loss(planted, planted.ranks) < mean_loss(planted.student, planted.test)


def test_squared_error_counts_every_text_once_and_padding_never(small):
    torch.manual_seed(0)
    model = ReadOut(data.load_model(small["model"]).base_model, 3, "tokens").eval()
    ids, mask = torch.randint(5, 90, (2, 6)), torch.tensor([[1] * 6, [1, 1, 0, 0, 0, 0]])
    batch = {"input_ids": ids, "attention_mask": mask, "labels": torch.zeros(2, 9, 3)}
    outputs = model(**batch).square()
    expected = (outputs[0].mean() + outputs[1, :2].mean()) / 2
    torch.testing.assert_close(squared_error(model, batch), expected)


def test_outputs_have_mean_zero_and_variance_one_in_the_order_of_the_texts(small):
    planted = plant(small | {"strength": 0.0, "examples": 64})
    labels, lengths = planted.train.dataset.labels, planted.train.dataset.lengths
    tokens = np.concatenate([text[:length] for text, length in zip(labels, lengths, strict=True)])
    np.testing.assert_allclose(np.cov(tokens.T), np.eye(8), atol=1e-3)
    assert all(not text[length:].any() for text, length in zip(labels, lengths, strict=True))


def test_adapters_of_other_ranks_start_alike(small):
    def start(ranks):
        model = seeded_lora(data.load_model(small["model"]), ranks, seed=7)
        return {name: value.detach() for name, value in model.named_parameters() if "lora_A" in name}

    names = [f"bert.encoder.layer.{i}.attention.self.query" for i in (0, 1)]
    narrow, wide = start({names[0]: 0, names[1]: 2}), start({names[0]: 3, names[1]: 4})
    (key,) = narrow
    assert torch.equal(narrow[key], wide[key][:2]) and len(wide) == 2
    assert wide[key].abs().max() <= 32**-0.5 and wide[key].std().item() == pytest.approx((3 * 32) ** -0.5, rel=0.2)
    untouched = seeded_lora(data.load_model(small["model"]), dict.fromkeys(names, 0), seed=7)
    assert not any(parameter.requires_grad for parameter in untouched.parameters())


def test_even_ranks_cost_as_much():
    assert even_ranks({"a": 0, "b": 5, "c": 2}, dict.fromkeys("abc", 64)) == {"a": 3, "b": 2, "c": 2}
    assert even_ranks({"a": 0, "b": 0}, {"a": 1, "b": 1}) == {"a": 0, "b": 0}


def test_a_study_of_rules_is_recorded_resumed_and_tabulated(small, tmp_path):
    path, setting = tmp_path / "leaderboard.jsonl", {key: small[key] for key in SETTING} | {"examples": 48, "steps": 4}
    runs = leaderboard_runs(setting, ["gap", "energy:0.9", "threshold", "best"], seeds=[0, 1])
    assert run_study(run, runs[:3], path, progress=False).done == 3
    outcome = run_study(run, runs, path, progress=False)
    assert (outcome.done, outcome.failed) == (3, 2)
    records = read_records(path)
    table = planted_table(records)
    assert set(table.index) == {"gap", "energy:0.9", "threshold"} and (table["seeds"] == 2).all()
    assert table["error"].is_monotonic_increasing and np.isfinite(table["gain_half"]).all()
    assert records["data.rows"].eq(2000).all() and records["model.sha256"].nunique() == 2  # a read-out for every seed
    with pytest.raises(ValueError, match="uniform:3"):
        run(runs[0] | {"rule": "uniform:x"})


def test_the_command_that_records(small, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(leaderboard, "LIGHT", {key: small[key] for key in SETTING} | {"steps": 2})
    path = tmp_path / "r.jsonl"
    command = [str(path), "--light", "--rules", "gap", "--seeds", "1", "--set", "examples=24", "noise=0.2"]
    assert leaderboard.main(command) == 0 and "done=1" in capsys.readouterr().out
    assert read_records(path)["config.noise"].tolist() == [0.2]
    with pytest.raises(SystemExit):
        leaderboard.main([*command, "colour=1"])


def test_one_matrix_at_a_time_separates_how_many_from_where(small, tmp_path):
    path, setting = tmp_path / "r.jsonl", {key: small[key] for key in SETTING} | {"examples": 48, "test_examples": 8}
    runs = alone_runs(setting, ["planted", "uniform:2"], seeds=[0])
    assert len(runs) == 4 * 2 and all(len(c["planted"]) == 1 and c["steps"] == 0 for c in runs)
    run_study(run, runs, path, progress=False)
    records = read_records(path)
    assert (records["metrics.loss"] == records["metrics.start_loss"]).all()
    table = alone_table(records)
    assert table.loc["planted", ["problems", "error", "elsewhere"]].tolist() == [4, 0, 0]
    assert table.loc["uniform:2", "elsewhere"] == 2 and np.isnan(table.loc["uniform:2", "correlation"])


def test_on_minilm():
    planted = plant(LIGHT | {"examples": 64, "test_examples": 24, "steps": 10, "seed": 0})
    assert len(planted.ranks) == 12 and max(planted.ranks.values()) == 6
    assert mean_loss(planted.student, planted.train) == pytest.approx(0.2**2 + 0.02**2, rel=0.08)
    found = score_rule(knows(planted), planted)
    assert found["error"] == found["excess"] == 0 and found["loss"] < 0.9 * found["start_loss"]
