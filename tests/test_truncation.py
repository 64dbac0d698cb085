"""Cutting a trained adapter is the truncated singular value decomposition of its updates, on PEFT's own layers."""

import copy
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, LoraModel, PeftModel, get_peft_model
from tiny_models import text_batches, tiny_bert, tiny_gpt2, tiny_llama, tiny_vit
from torch import nn

from companion.truncation import adapter_spectra, truncate_adapter

TARGETS = {"bert": ["query", "value"], "llama": ["q_proj", "v_proj", "down_proj"], "vit": "all-linear"}
MODELS = {"bert": tiny_bert, "llama": tiny_llama, "vit": tiny_vit}


def adapted(kind="bert", r=6, seed=0, **options):
    torch.manual_seed(seed)
    task = {"bert": "SEQ_CLS", "llama": "CAUSAL_LM", "vit": None}[kind]
    config = LoraConfig(r=r, target_modules=TARGETS[kind], task_type=task, init_lora_weights=False, **options)
    return get_peft_model(MODELS[kind](), config).eval()


def updates(model, adapter="default"):
    """The update of every adapted matrix, as PEFT itself computes it."""
    layers = model.get_base_model().named_modules()
    return {n: m.get_delta_weight(adapter).detach().double() for n, m in layers if hasattr(m, "lora_A") and adapter in m.r}


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("rslora", [False, True])
def test_spectra_are_those_of_the_updates(kind, rslora):
    model = adapted(kind, use_rslora=rslora, lora_alpha=5)
    found = adapter_spectra(model)
    for name, update in updates(model).items():
        assert found[name] == pytest.approx(torch.linalg.svdvals(update)[:6].numpy(), rel=1e-5, abs=1e-8)


@pytest.mark.parametrize("kind", MODELS)
def test_a_budget_for_everything_changes_nothing(kind):
    model = adapted(kind)
    before = updates(model)
    total = sum(p.numel() for n, p in model.named_parameters() if "lora_" in n)
    after = updates(truncate_adapter(model, budget=total))
    assert set(after) == set(before)
    assert all(torch.allclose(after[name], before[name], atol=1e-6) for name in before)


@pytest.mark.parametrize("kind", MODELS)
def test_what_is_kept_is_the_best_of_its_rank(kind):
    model = adapted(kind)
    before, spectra = updates(model), adapter_spectra(model)
    cut = truncate_adapter(model, threshold=float(np.median(np.concatenate(list(spectra.values())))))
    layers = dict(cut.get_base_model().named_modules())
    for name, update in updates(cut).items():
        rank = layers[name].r["default"]
        u, s, vh = torch.linalg.svd(before[name])
        assert torch.allclose(update, (u[:, :rank] * s[:rank]) @ vh[:rank], atol=1e-6)
        assert layers[name].scaling["default"] == 1


@settings(max_examples=15, deadline=None)
@given(st.integers(64, 1500))
def test_a_budget_is_kept_and_used_well(budget):
    model = adapted()
    spectra = adapter_spectra(model)
    cut = truncate_adapter(model, budget=budget)
    used = sum(p.numel() for n, p in cut.named_parameters() if "lora_" in n)
    assert budget - 64 < used <= budget or used == 4 * 6 * 64  # 64 parameters buy one direction of any matrix here
    everything = np.sort(np.concatenate(list(spectra.values())))[::-1]
    kept = np.concatenate(list(adapter_spectra(cut).values()))
    assert np.sort(kept)[::-1] == pytest.approx(everything[: used // 64], rel=1e-5)


def test_head_and_predictions_come_along():
    model = adapted("bert")
    model.base_model.model.classifier.modules_to_save["default"].weight.data.normal_()
    batch = text_batches(4, 4)[0]
    total = sum(p.numel() for n, p in model.named_parameters() if "lora_" in n)
    before = model(**batch).logits
    cut = truncate_adapter(model, budget=total)
    assert torch.allclose(cut(**batch).logits, before, atol=1e-5)
    assert not cut.training


def test_the_cut_adapter_is_plain_lora_that_loads_without_the_package(tmp_path):
    cut = truncate_adapter(adapted("bert"), budget=700)
    batch = text_batches(4, 4)[0]
    cut.save_pretrained(tmp_path / "adapter")
    torch.save({"batch": dict(batch), "logits": cut(**batch).logits.detach()}, tmp_path / "expected.pt")
    code = (
        "import sys, torch; sys.modules['companion'] = None; sys.path.insert(0, sys.argv[2])\n"
        "from peft import PeftModel; from tiny_models import tiny_bert\n"
        "model = PeftModel.from_pretrained(tiny_bert(), sys.argv[1] + '/adapter').eval()\n"
        "expected = torch.load(sys.argv[1] + '/expected.pt')\n"
        "assert torch.allclose(model(**expected['batch']).logits, expected['logits'], atol=1e-6)\n"
    )
    tests = __file__.rpartition("/")[0]
    subprocess.run([sys.executable, "-c", code, str(tmp_path), tests], check=True)


KINDS_OF_LORA = {
    "biases": (tiny_bert, {"target_modules": ["query", "dense"], "bias": "all"}),
    "biases of adapted layers": (tiny_bert, {"target_modules": ["query", "dense"], "bias": "lora_only"}),
    "tokens": (tiny_llama, {"target_modules": ["q_proj"], "trainable_token_indices": {"embed_tokens": [5, 6, 7]}}),
    "layers repeated": (tiny_llama, {"target_modules": ["q_proj"], "layer_replication": [(0, 2), (1, 2)]}),
    "patterns": (tiny_bert, {"target_modules": "all-linear", "rank_pattern": {"query": 7}, "alpha_pattern": {"value": 31}}),
    "Conv1D": (tiny_gpt2, {"target_modules": ["c_attn", "c_proj"], "fan_in_fan_out": True}),
}


@pytest.mark.parametrize("kind", KINDS_OF_LORA)
def test_what_was_trained_beside_the_factors_is_saved_with_them(kind, tmp_path):
    make, options = KINDS_OF_LORA[kind]
    torch.manual_seed(3)
    model, batch = make(), text_batches(4, 4)[0]
    del batch["labels"]
    untouched = copy.deepcopy(model)
    wide = get_peft_model(model, LoraConfig(r=4, init_lora_weights=False, **options)).eval()
    for parameter in wide.parameters():
        if parameter.requires_grad:
            parameter.data.add_(0.1 * torch.randn_like(parameter))
    with torch.no_grad():
        before = wide(**batch).logits
        smallest = min(values[0] for values in adapter_spectra(wide).values())
        cut = truncate_adapter(wide, threshold=0.0)
        torch.testing.assert_close(cut(**batch).logits, before, atol=1e-4, rtol=1e-4)
        cut = truncate_adapter(cut, threshold=float(smallest) * 1.001)  # one matrix without an adapter
        after = cut(**batch).logits
        cut.save_pretrained(tmp_path)
        loaded = PeftModel.from_pretrained(untouched, tmp_path).eval()
        torch.testing.assert_close(loaded(**batch).logits, after, atol=1e-5, rtol=1e-5)


def test_a_name_that_ends_another_stays_apart():
    model = nn.ModuleDict({"a": nn.Linear(5, 4), "b": nn.ModuleDict({"a": nn.Linear(4, 3)})})
    model.forward = lambda x: model["b"]["a"](model["a"](x))
    cut = truncate_adapter(get_peft_model(model, LoraConfig(r=3, target_modules="a", init_lora_weights=False)), budget=2 * 9)
    assert {name: len(values) for name, values in adapter_spectra(cut).items()} == {"a": 2}


def test_a_base_that_the_adapter_has_changed_is_said():
    model = get_peft_model(tiny_bert(), LoraConfig(r=4, target_modules=["query"], init_lora_weights="pissa"))
    with pytest.warns(UserWarning, match="adapter 'default': init_lora_weights='pissa' has changed"):
        truncate_adapter(model, threshold=0.0)


def test_the_cut_model_trains():
    cut = truncate_adapter(adapted("bert"), budget=700).train()
    batch = text_batches(4, 4)[0]
    cut(**batch).loss.backward()
    trained = [n for n, p in cut.named_parameters() if p.requires_grad]
    assert any("lora_" in n for n in trained) and all("lora_" in n or "classifier" in n for n in trained)
    assert all(p.grad is not None for n, p in cut.named_parameters() if p.requires_grad and "lora_" in n)


def test_a_matrix_without_a_kept_direction_has_no_adapter():
    model = adapted("bert")
    layer = model.base_model.model.bert.encoder.layer[0].attention.self.query
    layer.lora_B["default"].weight.data.mul_(1e-6)
    cut = truncate_adapter(model, threshold=1e-3)
    assert isinstance(cut, PeftModel) and isinstance(cut.base_model, LoraModel)
    assert type(cut.base_model.model.bert.encoder.layer[0].attention.self.query) is nn.Linear
    assert len(updates(cut)) == 3


def test_another_adapter_by_name():
    model = adapted("bert")
    model.add_adapter("second", LoraConfig(r=2, target_modules=["query"], init_lora_weights=False))
    spectra = adapter_spectra(model, "second")
    assert set(map(len, spectra.values())) == {2} and len(spectra) == 2
    cut = truncate_adapter(model, budget=2 * 64, adapter="second")
    assert list(cut.peft_config) == ["second"]


def broken(model):
    model.base_model.model.bert.encoder.layer[0].attention.self.query.lora_A["default"].weight.data[0, 0] = torch.nan
    return model


def merged(model):
    model.merge_adapter()
    return model


@pytest.mark.parametrize(
    ("make", "options", "error", "message"),
    [
        (adapted, {}, ValueError, "give budget or threshold, and not both"),
        (adapted, {"budget": 100, "threshold": 0.1}, ValueError, "give budget or threshold"),
        (adapted, {"budget": 63}, ValueError, "nothing is left .* its largest singular value is"),
        (adapted, {"threshold": 1e9}, ValueError, "nothing is left"),
        (adapted, {"threshold": float("nan")}, ValueError, "threshold must be a finite number"),
        (adapted, {"threshold": "0.1"}, ValueError, "threshold must be a finite number >= 0, got '0.1'"),
        (adapted, {"budget": -1}, ValueError, "budget must be >= 0"),
        (adapted, {"budget": 100, "adapter": "x"}, ValueError, "got 'x'; the model has 'default'"),
        (tiny_bert, {"budget": 100}, TypeError, "must be a peft.PeftModel, got BertForSequenceClassification"),
        (lambda: adapted(use_dora=True), {"budget": 100}, ValueError, "must be plain LoRA, got LoRA with DoRA"),
        (lambda: broken(adapted()), {"budget": 100}, ValueError, "hold NaN or infinity"),
        (lambda: merged(adapted()), {"budget": 100}, ValueError, "is merged into"),
    ],
)
def test_bad_input_is_named(make, options, error, message):
    with pytest.raises(error, match=message):
        truncate_adapter(make(), **options)


def test_other_layers_are_refused():
    embedding = get_peft_model(nn.Sequential(nn.Embedding(9, 4)), LoraConfig(r=2, target_modules=["0"]))
    convolution = get_peft_model(nn.Sequential(nn.Conv2d(3, 4, 3)), LoraConfig(r=2, target_modules=["0"]))
    for model, kind in ((embedding, "Embedding"), (convolution, "Conv2d")):
        with pytest.raises(ValueError, match=f"0 must be a linear layer, got {kind}"):
            adapter_spectra(model)


def test_an_adapter_that_waits_for_its_tokens_is_refused():
    config = LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"], alora_invocation_tokens=[5])
    with pytest.raises(ValueError, match="must be plain LoRA, got ALora"):
        adapter_spectra(get_peft_model(tiny_llama(), config))
