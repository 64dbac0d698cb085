"""The vision study on bundled images: adapters within a budget, a run from its configuration, and the queue to its end."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import PeftModel
from transformers import ViTConfig, ViTForImageClassification

from companion import data, vision_study
from companion.cli import main
from companion.data import load_images, make_image_dataloader
from companion.gradients import GradientSpectrum
from companion.matched_adapters import KINDS, Place, trained_parameters, with_adapter
from companion.runs import key_of, read_records
from companion.study_tables import final_scores
from companion.tucker_counts import parameter_counts
from companion.tucker_lora import tucker_parameters
from companion.tucker_ranks import gradient_mode_spectra, ranks_within
from companion.vision_run import PAPER_VISION, VISION_SETTING, run_vision_once, split_images
from companion.vision_study import ABLATION, VISION, run_ablation, run_vision

IMAGES = load_images("fashion-mnist-mini", "train")
BUDGETED = [kind for kind in KINDS if not kind.endswith("printed")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A random ViT of the smallest size whose attention does something: 12 projections as tensors of (4, 8, 32)."""
    path = tmp_path_factory.mktemp("tiny-vit")
    sizes = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = ViTConfig(image_size=32, patch_size=8, initializer_range=0.2, num_labels=10, **sizes)
        ViTForImageClassification(config).save_pretrained(path)
    return str(path)


@pytest.fixture
def small(folder):
    return VISION_SETTING | {"model": folder, "classes": None, "per_class": 8, "calibration": 2, "epochs": 1}


def place(folder, rank, **options):
    found = Place(data.load_model(folder, 10, 0), batches=make_image_dataloader(IMAGES[:40]), **options)
    found.budget = rank * sum(found.costs.values())
    return found


def config(setting, **changes):
    chosen = {"task": "fashion-mnist-mini", "method": "lora", "parameter": None, "learning_rate": 3e-3, "seed": 0, "split": "tuning"}
    return {**setting, **chosen, **changes}


# --- Adapters within a budget -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", BUDGETED)
@pytest.mark.parametrize("rank", [2, 5])
def test_a_kind_spends_its_budget_changes_nothing_at_first_and_can_be_trained(folder, kind, rank):
    where = place(folder, rank)
    batch = next(iter(make_image_dataloader(IMAGES[:8])))
    before = where.model(**batch).logits.detach()
    model, ranks = with_adapter(kind, where)
    count = trained_parameters(model)
    assert 0.75 * where.budget < count <= where.budget
    assert ranks and torch.allclose(model(**batch).logits, before, atol=1e-6)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert any("classifier" in name for name in trained)
    if kind == "lora":
        assert count == where.budget and set(ranks.values()) == {rank} and len(ranks) == 12
    if kind.startswith("tucker"):
        assert tucker_parameters(model)["total"] == count
    if kind == "tucker":
        assert count == 12 * parameter_counts((4, 8, 32), ranks["r"]).tucker
    model(**batch).loss.backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for name, p in model.named_parameters() if "classifier" not in name)


def test_shared_factors_buy_larger_ranks(folder):
    found = [with_adapter(kind, place(folder, 2))[1]["r"] for kind in ("tucker", "tucker-qkv", "tucker-layers")]
    assert np.prod(found[0]) < np.prod(found[1]) and np.prod(found[0]) < np.prod(found[2])


def test_as_printed_every_matrix_has_its_own_ranks_and_lora_costs_as_much(folder):
    model, ranks = with_adapter("tucker-printed", place(folder, 2))
    assert len(ranks) == 12 and len(set(map(tuple, ranks.values()))) > 1
    total = sum(parameter_counts((4, 8, 32), r).tucker for r in ranks.values())
    assert tucker_parameters(model)["total"] == total
    plain, even = with_adapter("lora-printed", place(folder, 2))
    assert total - 64 < trained_parameters(plain) <= total and max(even.values()) - min(even.values()) <= 1


def test_given_ranks_need_no_budget_and_seeds_matter(folder):
    where = [Place(data.load_model(folder, 10, 0), ranks=(2, 2, 3), seed=seed) for seed in (0, 0, 1)]
    models = [with_adapter("tucker", w)[0] for w in where]
    assert trained_parameters(models[0]) == 12 * parameter_counts((4, 8, 32), (2, 2, 3)).tucker
    factor = [next(p for name, p in m.named_parameters() if "tucker_U3" in name) for m in models]
    assert torch.equal(factor[0], factor[1]) and not torch.equal(factor[0], factor[2])


@pytest.mark.parametrize("kind, budget, message", [
    ("lora", 3, "accepted for LoRA: 64 or more"), ("loha", 700, "accepted for LoHa: 1536 or more"),
    ("lokr", 3, "accepted for LoKr: "), ("tucker", 500, "accepted: 540 or more"), ("lora", None, "budget: got None"),
    ("cp", 1, "kind: got 'cp'; accepted: lora, tucker"),
])  # fmt: skip
def test_budgets_that_pay_for_nothing(folder, kind, budget, message):
    where = place(folder, 1)
    where.budget = budget
    with pytest.raises(ValueError, match=message):
        with_adapter(kind, where)
    assert not isinstance(where.model, PeftModel)


def test_a_model_without_projections_is_refused():
    with pytest.raises(ValueError, match="no separate projections into or out of heads"):
        with_adapter("lora", Place(torch.nn.Sequential(torch.nn.Linear(4, 4)), 10))


# --- Ranks within a budget --------------------------------------------------------------------------------------------


def spectrum(rng, rows, columns):
    values = np.sort(rng.exponential(size=min(rows, columns)))[::-1]
    return GradientSpectrum(values, np.zeros(0), (rows, columns), 100, np.zeros(0))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(30, 900))
def test_ranks_within_are_the_best_of_all_that_fit(seed, budget):
    rng, dims = np.random.default_rng(seed), (3, 4, 6)
    spectra = {name: [spectrum(rng, d, 72 // d) for d in dims] for name in "ab"}
    sizes = tuple(2 * d for d in dims)

    def cost(r):
        return 2 * r[0] * r[1] * r[2] + sum(size * k for size, k in zip(sizes, r, strict=True))

    def lost(r):
        return np.mean([sum(np.sum(s.singular_values[k:] ** 2) / np.sum(s.singular_values**2) for s, k in zip(three, r, strict=True))
                        for three in spectra.values()])  # fmt: skip

    found = ranks_within(spectra, budget, sizes, 2)
    a, b, c = found
    assert cost(found) <= budget and a <= b * c and b <= a * c and c <= a * b
    for r in np.ndindex(*dims):
        x, y, z = (i + 1 for i in r)
        if cost((x, y, z)) <= budget and x <= y * z and y <= x * z and z <= x * y:
            assert lost(found) <= lost((x, y, z)) + 1e-12


def test_ranks_within_refuses_what_it_cannot_do(folder):
    where = place(folder, 1)
    spectra = gradient_mode_spectra(where.gradients, where.model)
    with pytest.raises(ValueError, match="budget: got 10; accepted: 540 or more"):
        ranks_within(spectra, 10, (48, 96, 384), 12)
    with pytest.raises(ValueError, match="accepted: the same for all"):
        ranks_within({"a": spectra[next(iter(spectra))], "b": spectra[next(iter(spectra))][::-1]}, 10**6, (4, 8, 32), 1)
    with pytest.raises(ValueError, match="accepted: the same for all"):
        ranks_within({}, 100, (4, 8, 32), 1)


# --- Runs -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["tucker", "lokr"])
def test_a_run_is_repeatable_and_says_what_it_measured(small, method):
    first, second = (run_vision_once(config(small, method=method, rank=2)) for _ in range(2))
    for record in (first, second):
        assert all(record["metrics"].pop(name) >= 0 for name in ("choosing", "training", "evaluating"))
    assert first["metrics"] == second["metrics"]
    metrics = first["metrics"]
    assert metrics["score"] == pytest.approx(100 * metrics["accuracy"]) and 0 < metrics["parameters"] <= 2 * 12 * 64
    assert len(first["model"]["sha256"]) == 64 and first["data"]["task"] == "fashion-mnist-mini"
    json.dumps(first, allow_nan=False)


def test_all_methods_of_a_seed_start_from_one_head(small):
    hashes = {run_vision_once(config(small, method=m, rank=2))["model"]["sha256"] for m in ("lora", "tucker", "full")}
    assert len(hashes) == 1
    assert run_vision_once(config(small, method="lora", rank=2, seed=1))["model"]["sha256"] not in hashes
    assert run_vision_once(config(small, method="lora", rank=2, head="fresh"))["model"]["sha256"] not in hashes


def test_the_probe_trains_nothing_and_full_everything(small, folder):
    probe = run_vision_once(config(small, method="probe", rank=None, learning_rate=None))["metrics"]
    assert probe["parameters"] == 0 and probe["ranks"] == {} and probe["train_loss"] is None
    full = run_vision_once(config(small, method="full", rank=None, learning_rate=1e-4))["metrics"]
    assert full["parameters"] == data.load_model(folder, 10).num_parameters()


def test_training_never_sees_tuning_images_and_all_seeds_share_them():
    (one, held), (two, same) = split_images(IMAGES, 30, 0), split_images(IMAGES, 30, 1)
    assert held["label"].value_counts().eq(20).all() and one["label"].value_counts().eq(30).all()

    def prints(frame):
        return {image.tobytes() for image in frame["image"]}

    assert prints(held) == prints(same) and prints(one) != prints(two)
    assert not prints(held) & (prints(one) | prints(two))
    everything, _ = split_images(IMAGES, None, 0)
    assert len(everything) + len(held) == len(IMAGES)
    with pytest.raises(ValueError, match="per_class: got 0"):
        split_images(IMAGES, 0, 0)
    with pytest.raises(ValueError, match="fewer than 5 images"):
        split_images(IMAGES[:12], None, 0)


def test_a_budget_is_one_run_as_an_integer_and_as_a_float(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(vision_study, "run_tuned", lambda design, path, tasks, methods, seeds, setting, *_: asked.append(setting) or [])
    for budgets in ((4,), (4.0,)):
        run_vision(tmp_path / "none.jsonl", ["lora"], budgets)
    assert key_of(asked[0]) == key_of(asked[1])


def test_the_paper_setting_is_that_of_its_appendix():
    assert PAPER_VISION["model"] == "vit-base-patch16-224-in21k" and PAPER_VISION["ranks"] == [4, 2, 2]
    assert (PAPER_VISION["epochs"], PAPER_VISION["batch_size"], PAPER_VISION["size"]) == (50, 64, 224)
    assert parameter_counts((12, 64, 768), PAPER_VISION["ranks"]).tucker * 48 == 82_944  # not one million


def test_the_papers_setting_runs_end_to_end_on_a_tiny_vit(tmp_path):
    sizes = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 24}
    ViTForImageClassification(ViTConfig(image_size=224, patch_size=56, **sizes)).save_pretrained(tmp_path / "vit")
    setting = PAPER_VISION | {"model": str(tmp_path / "vit"), "per_class": 2, "calibration": 1, "epochs": 1}
    for split in ("tuning", "test"):
        metrics = run_vision_once(config(setting, method="tucker", learning_rate=1e-3, split=split))["metrics"]
        assert metrics["parameters"] == 4 * parameter_counts((4, 6, 24), (4, 2, 2)).tucker


# --- The study --------------------------------------------------------------------------------------------------------


def test_from_the_command_line_and_again(tmp_path, small, folder, capsys, monkeypatch):
    monkeypatch.setitem(VISION.rates, "others", (3e-3,))
    monkeypatch.setattr("companion.vision_run.VISION_SETTING", small)
    path = tmp_path / "v.jsonl"
    command = ["study", "vision", "--records", str(path), "--task", "fashion-mnist-mini", "--seeds", "1", "--budgets", "1", "3"]
    assert main([*command, "--methods", "lora", "tucker", "probe", "--model", folder, "--epochs", "1"]) == 0
    shown = capsys.readouterr().out
    assert "all runs: 5 done, 0 failed, 0 left" in shown and "budget of LoRA of rank 3" in shown
    records = read_records(path)
    assert len(records) == 5 and set(records["config.split"]) == {"test"}
    assert main([*command, "--methods", "lora", "tucker", "probe", "--model", folder, "--epochs", "1"]) == 0
    assert len(read_records(path)) == 5
    scores = final_scores(records, rank=3)
    assert set(scores.index.get_level_values("method")) == {"lora", "tucker"}


def test_budgets_replace_the_ranks_of_a_setting(tmp_path, small, monkeypatch):
    monkeypatch.setitem(VISION.rates, "others", (3e-3,))
    run_vision(tmp_path / "b.jsonl", ["tucker"], [1, 3], [0], "fashion-mnist-mini", small | {"ranks": [4, 2, 2]})
    cost = read_records(tmp_path / "b.jsonl").set_index("config.rank")["metrics.parameters"]
    assert 0.75 < cost[1] / 768 <= 1 and 0.75 < cost[3] / (3 * 768) <= 1  # not twice the cost of (4, 2, 2)


def test_tuning_comes_first_and_an_ablation_is_of_given_ranks(tmp_path, small):
    outcomes = run_ablation(tmp_path / "a.jsonl", [(1, 1, 1), (2, 2, 2)], [0], "fashion-mnist-mini", small)
    assert all(o.failed == o.left == 0 for o in outcomes)
    records = read_records(tmp_path / "a.jsonl")
    final = records[records["config.split"] == "test"]
    assert sorted(map(tuple, final["config.ranks"])) == [(1, 1, 1), (2, 2, 2)]
    assert (records["config.split"] == "tuning").sum() >= 6
    assert ABLATION[0] == (4, 2, 2) and len(set(ABLATION)) == len(ABLATION)


def test_a_misspelt_method_is_found_before_any_work(tmp_path):
    with pytest.raises(ValueError, match="methods: got 'tuker'; accepted: probe, full, lora"):
        run_vision(tmp_path / "x.jsonl", ["tuker"])
    assert not list(tmp_path.iterdir())
