"""Tucker-LoRA is a method of PEFT like any other, on PEFT's own models: from a start that changes nothing to plain LoRA."""

import copy
import gc
import json
import os
import pickle
import subprocess
import sys
import warnings
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, PeftType, convert_to_lora, get_peft_model, get_peft_model_state_dict, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from test_quantised import Packed4bit
from tiny_models import causal_batches, image_batches, text_batches, tiny_bert, tiny_gpt2, tiny_llama, tiny_vit
from torch import nn
from torch.func import functional_call
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
    Trainer,
    TrainingArguments,
    ViTConfig,
    ViTModel,
)

import companion.tucker_lora
from companion.tucker_export import to_lora
from companion.tucker_heads import attention_projections, head_shape
from companion.tucker_layer import TuckerLinear
from companion.tucker_lora import TuckerLoraConfig, register_tucker_lora, tucker_parameters

TARGETS = {
    "bert": ["query", "value", "attention.output.dense"],
    "llama": ["q_proj", "k_proj", "v_proj", "o_proj"],
    "vit": ["q_proj", "v_proj", "o_proj"],
}
MODELS = {"bert": tiny_bert, "llama": tiny_llama, "vit": tiny_vit}
BATCHES = {"bert": text_batches, "llama": causal_batches, "vit": image_batches}
TASKS = {"bert": "SEQ_CLS", "llama": "CAUSAL_LM", "vit": None}
RANKS = [(2, 3, 4), (2, 2, 6), (1, 1, 1)]  # r3 below, above and at r1 r2
each_kind = pytest.mark.parametrize("kind", MODELS)


def settings(kind, **options):
    return TuckerLoraConfig(**{"r": (2, 3, 4), "target_modules": TARGETS[kind], "task_type": TASKS[kind]} | options)


def adapted(kind="bert", seed=0, base=None, **options):
    """With a random core, so that the update is not zero."""
    torch.manual_seed(seed)
    config = settings(kind, **{"init_weights": False, "alpha": 3.0 if kind == "bert" else 0.3} | options)
    return get_peft_model(MODELS[kind]() if base is None else base, config).eval()


def batch_of(kind):
    return BATCHES[kind](4, 4)[0]


def logits(model, kind):
    with torch.no_grad():
        return model(**batch_of(kind)).logits


def layers(model):
    return {name: module for name, module in model.get_base_model().named_modules() if isinstance(module, TuckerLinear)}


def randomise(model, adapter):
    for layer in layers(model).values():
        if adapter in layer.r:
            nn.init.normal_(layer.tucker_core[adapter].weight)


# --- The update. -------------------------------------------------------------------------------------------------------


@each_kind
def test_the_start_changes_nothing_at_all(kind):
    base = MODELS[kind]()
    before = logits(base, kind)
    assert torch.equal(logits(get_peft_model(base, settings(kind)), kind), before)


@each_kind
def test_factors_are_orthonormal_and_follow_the_seed(kind):
    first, again, other = (get_peft_model_state_dict(adapted(kind, seed=seed, init_weights=True)) for seed in (0, 0, 1))
    for key, value in first.items():
        if "tucker_U" in key:
            assert torch.allclose(value.T @ value, torch.eye(value.shape[1]), atol=1e-5)
            assert torch.equal(value, again[key]) and not torch.equal(value, other[key])


@each_kind
@pytest.mark.parametrize("r", RANKS)
def test_the_update_is_the_tucker_product(kind, r):
    model = adapted(kind, r=r, alpha=0.7)
    for name, layer in layers(model).items():
        u1, u2, u3 = (getattr(layer, f"tucker_U{k}")["default"].weight for k in (1, 2, 3))
        tensor = 0.7 * torch.einsum("abc,ha,db,mc->hdm", layer.tucker_core["default"].weight, u1, u2, u3)
        matrix = tensor.reshape(-1, tensor.shape[2])
        expected = matrix.T if name.endswith(("o_proj", "output.dense")) else matrix
        assert torch.allclose(layer.get_delta_weight("default"), expected, atol=1e-6)


def test_heads_are_those_of_the_model_also_with_grouped_queries():
    found = {name.rpartition(".")[2]: layer.head_shape["default"] for name, layer in layers(adapted("llama")).items()}
    assert {name: (*shape.modes, shape.on_input) for name, shape in found.items()} == {
        "q_proj": (4, 8, 32, False), "k_proj": (2, 8, 32, False), "v_proj": (2, 8, 32, False), "o_proj": (4, 8, 32, True),
    }  # fmt: skip


@pytest.mark.parametrize("r", RANKS)
@pytest.mark.parametrize("target", ["q_proj", "o_proj"])
def test_gradients_against_finite_differences(r, target):
    model = adapted("llama", r=r, target_modules=[f"model.layers.0.self_attn.{target}"]).double()
    ((_, layer),) = layers(model).items()
    names, values = zip(*((n, p.detach().requires_grad_()) for n, p in layer.named_parameters() if "tucker_" in n), strict=True)
    x = torch.randn(3, 32, dtype=torch.double, requires_grad=True)
    call = lambda x, *values: functional_call(layer, dict(zip(names, values, strict=True)), x)  # noqa: E731
    assert torch.autograd.gradcheck(call, (x, *values))


def test_no_matrix_of_the_size_of_the_weight_is_made():
    model = adapted("bert", r=(2, 3, 4))
    layer = next(iter(layers(model).values()))
    sizes = []

    class Record(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            out = function(*args, **(kwargs or {}))
            sizes.append(out.numel() if isinstance(out, torch.Tensor) and "aten.t." not in str(function) else 0)
            return out

    with Record(), torch.no_grad():
        layer(torch.randn(1, 32))
    assert 0 < max(sizes) < 32 * 32


@each_kind
def test_dropout_is_on_in_training_only(kind):
    model = adapted(kind, dropout=0.5)
    assert torch.equal(logits(model, kind), logits(model, kind))
    for layer in layers(model).values():
        layer.tucker_dropout.train()
    assert not torch.equal(logits(model, kind), logits(model, kind))


# --- Life in PEFT. -----------------------------------------------------------------------------------------------------


@each_kind
def test_training_lowers_the_loss_and_moves_every_factor_and_nothing_else(kind):
    model = adapted(kind, init_weights=True).train()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=3e-2)
    losses = []
    for _ in range(8):
        loss = model(**batch_of(kind)).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    for name, p in model.named_parameters():
        trained = "tucker_" in name or "modules_to_save" in name
        assert p.requires_grad == trained and torch.equal(p, before[name]) != trained, name


@each_kind
def test_parameters_are_those_of_the_formula(kind, capsys):
    model = adapted(kind)
    counts = tucker_parameters(model)
    modes = [layer.head_shape["default"].modes for layer in layers(model).values()]
    expected = sum(2 * 3 * 4 + 2 * heads + 3 * head_dim + 4 * d_model for heads, head_dim, d_model in modes)
    assert counts["total"] == counts["unshared"] == expected
    trained, _ = model.get_nb_trainable_parameters()
    head = sum(p.numel() for n, p in model.named_parameters() if "modules_to_save" in n)
    assert trained == expected + head and (head > 0) == (kind == "bert")
    model.print_trainable_parameters()
    assert f"trainable params: {trained:,}" in capsys.readouterr().out


@each_kind
@pytest.mark.parametrize("safe", [False, True])
@pytest.mark.parametrize("r", RANKS)
def test_merging_changes_nothing_and_can_be_undone(kind, safe, r):
    model = adapted(kind, r=r)
    before, plain = logits(model, kind), {n: m.weight.detach().clone() for n, m in layers(model).items()}
    model.merge_adapter(safe_merge=safe)
    assert torch.allclose(logits(model, kind), before, atol=1e-5)
    assert all(not torch.equal(layer.weight, plain[name]) for name, layer in layers(model).items())
    model.unmerge_adapter()
    assert torch.allclose(logits(model, kind), before, atol=1e-5)
    assert all(torch.allclose(layer.weight, plain[name], atol=1e-6) for name, layer in layers(model).items())


@each_kind
def test_merge_and_unload_leaves_an_ordinary_model(kind):
    model = adapted(kind)
    before = logits(model, kind)
    merged = model.merge_and_unload()
    assert type(merged) is type(MODELS[kind]()) and not any("tucker" in name for name, _ in merged.named_modules())
    assert torch.allclose(logits(merged, kind), before, atol=1e-5)


def test_a_safe_merge_refuses_nan():
    model = adapted()
    next(iter(layers(model).values())).tucker_core["default"].weight.data.fill_(float("nan"))
    with pytest.raises(ValueError, match="NaN"):
        model.merge_adapter(safe_merge=True)


@each_kind
@pytest.mark.parametrize("low_memory", [False, True])
def test_saved_and_loaded_it_is_the_same(kind, low_memory, tmp_path):
    model = adapted(kind, rank_pattern={r"layers?\.0\..*": (1, 2, 2)})
    if kind == "bert":
        model.base_model.model.classifier.modules_to_save["default"].weight.data.normal_()
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(MODELS[kind](), tmp_path, low_cpu_mem_usage=low_memory).eval()
    assert torch.equal(logits(loaded, kind), logits(model, kind))
    assert loaded.peft_config["default"].rank_pattern == model.peft_config["default"].rank_pattern
    assert not any(p.requires_grad for p in loaded.parameters())
    trainable = PeftModel.from_pretrained(MODELS[kind](), tmp_path, is_trainable=True)
    assert trainable.get_nb_trainable_parameters() == model.get_nb_trainable_parameters()


@each_kind
def test_several_adapters_live_side_by_side(kind, tmp_path):
    model = adapted(kind)
    first = logits(model, kind)
    model.add_adapter("second", settings(kind, r=(1, 2, 5), target_modules=TARGETS[kind][:2], num_heads=2))
    assert torch.equal(logits(model, kind), first)
    model.set_adapter("second")
    base = logits(model, kind)
    randomise(model, "second")
    second = logits(model, kind)
    assert not torch.equal(second, base)
    assert all(("second" in n) == p.requires_grad for n, p in model.named_parameters() if "tucker_" in n)
    model.save_pretrained(tmp_path)
    model.set_adapter("default")
    assert torch.equal(logits(model, kind), first)
    model.load_adapter(tmp_path / "second", "again")
    model.set_adapter("again")
    assert torch.equal(logits(model, kind), second)
    model.delete_adapter("second")
    assert not any("second" in name for name, _ in model.named_parameters())
    model.set_adapter("default")
    assert torch.equal(logits(model, kind), first)
    model.delete_adapter("again")
    model.delete_adapter("default")
    assert not any("tucker" in name for name, _ in model.named_parameters())


@pytest.mark.parametrize("kind", ["llama", "vit"])  # PEFT trains one head at a time
def test_two_adapters_at_once_add_up(kind):
    model = adapted(kind)
    first = logits(model, kind)
    model.add_adapter("second", settings(kind, init_weights=False, alpha=0.3))
    model.base_model.set_adapter(["default", "second"])
    both = logits(model, kind)
    assert not torch.allclose(both, first, atol=1e-3)
    layer = next(iter(layers(model).values()))
    x, base = torch.randn(3, 32), layer.base_layer
    update = layer.get_delta_weight("default") + layer.get_delta_weight("second")
    assert torch.allclose(layer(x), base(x) + x @ update.T, atol=1e-5)
    model.merge_adapter()
    assert torch.allclose(logits(model, kind), both, atol=1e-5)
    model.unmerge_adapter()
    model.set_adapter("default")
    assert torch.allclose(logits(model, kind), first, atol=1e-5)


@each_kind
def test_disabled_it_is_the_base(kind):
    base = logits(MODELS[kind](), kind)
    model = adapted(kind)
    on = logits(model, kind)
    with model.disable_adapter():
        assert torch.equal(logits(model, kind), base) or kind == "bert"  # the head of the classifier is trained too
        assert not torch.equal(logits(model, kind), on)
    assert torch.equal(logits(model, kind), on)
    model.merge_adapter()
    with model.disable_adapter():
        assert torch.allclose(logits(model, kind), base, atol=1e-5)
    assert torch.allclose(logits(model, kind), on, atol=1e-5)


@each_kind
@pytest.mark.parametrize("autocast", [True, False])
def test_a_base_in_bfloat16(kind, autocast):
    base = MODELS[kind]().to(torch.bfloat16)
    model = get_peft_model(base, settings(kind, init_weights=False), autocast_adapter_dtype=autocast).eval()
    wanted = torch.float32 if autocast else torch.bfloat16
    assert {p.dtype for n, p in model.named_parameters() if "tucker_" in n} == {wanted}
    batch = batch_of(kind)
    if kind == "vit":
        batch = batch | {"pixel_values": batch["pixel_values"].to(torch.bfloat16)}
    out = model(**batch)
    assert out.logits.dtype == torch.bfloat16
    out.loss.backward()
    assert all(torch.isfinite(p.grad).all() for n, p in model.named_parameters() if "tucker_" in n)
    model.merge_adapter(safe_merge=True)
    assert {layer.weight.dtype for layer in layers(model).values()} == {torch.bfloat16}
    assert torch.allclose(model(**batch).logits, out.logits, atol=0.1)


def test_under_autocast_it_trains():
    model = adapted("bert").train()
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(**batch_of("bert")).loss
    loss.backward()
    assert all(p.grad.dtype == torch.float32 for n, p in model.named_parameters() if "tucker_" in n)


def test_copies_and_pickles():
    model = adapted()
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(logits(other, "bert"), logits(model, "bert"))
    assert pickle.loads(pickle.dumps(model.peft_config["default"])).peft_type is PeftType.TUCKERLORA


def test_peft_reports_its_state():
    model = adapted()
    status = model.get_model_status()
    assert (status.peft_types, status.active_adapters) == ({"default": "TUCKERLORA"}, ["default"])
    assert len([layer for layer in model.get_layer_status() if layer.module_type == "tucker.TuckerLinear"]) == 6


def test_the_trainer_trains_and_resumes(tmp_path):
    batch = text_batches(16, 16)[0]
    rows = [{key: value[i] for key, value in batch.items()} for i in range(16)]
    options = {"max_steps": 4, "per_device_train_batch_size": 8, "save_steps": 2, "learning_rate": 1e-2, "use_cpu": True}
    arguments = TrainingArguments(tmp_path, report_to=[], disable_tqdm=True, **options)
    first, second = adapted(init_weights=True, share="qkv"), adapted(init_weights=True, share="qkv", seed=1)
    Trainer(first, arguments, train_dataset=rows).train()
    Trainer(second, arguments, train_dataset=rows).train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert torch.equal(logits(first.eval(), "bert"), logits(second.eval(), "bert"))


def test_injected_without_a_peft_model():
    model = inject_adapter_in_model(settings("bert"), tiny_bert())
    assert any(isinstance(module, TuckerLinear) for module in model.modules())


def test_the_configuration_is_plain_json(tmp_path):
    config = settings("bert", rank_pattern={"query": [1, 1, 2]}, num_heads={"query": 4})
    config.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["peft_type"] == "TUCKERLORA"
    loaded = TuckerLoraConfig.from_pretrained(tmp_path)
    assert (loaded.r, loaded.rank_pattern, loaded.num_heads) == ((2, 3, 4), {"query": (1, 1, 2)}, {"query": 4})


def test_default_targets_and_single_layers():
    model = get_peft_model(tiny_llama(), TuckerLoraConfig(r=(2, 2, 2), layers_to_transform=[1]))
    assert list(layers(model)) == ["model.layers.1.self_attn.q_proj", "model.layers.1.self_attn.v_proj"]
    model = get_peft_model(tiny_bert(), TuckerLoraConfig(r=(2, 2, 2), target_modules=r".*\.0\..*(query|key)"))
    assert list(layers(model)) == [f"bert.encoder.layer.0.attention.self.{name}" for name in ("query", "key")]


def test_heads_of_an_encoder_and_decoder():
    sizes = {"d_model": 24, "d_kv": 8, "d_ff": 48, "num_layers": 1, "num_heads": 4, "vocab_size": 60}
    model = get_peft_model(T5ForConditionalGeneration(T5Config(**sizes)), TuckerLoraConfig(r=(2, 2, 2), target_modules=["q", "v", "o"]))
    assert {layer.head_shape["default"].modes for layer in layers(model).values()} == {(4, 8, 24)}
    assert len(layers(model)) == 9


class Text(nn.Module):
    """A model whose configuration has heads, with a part of another one that has other heads."""

    def __init__(self):
        super().__init__()
        self.text, self.eyes = tiny_bert(), ViTModel(ViTConfig(image_size=8, patch_size=4, **SMALL)).eval()
        self.config = self.text.config


SMALL = {"hidden_size": 12, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}


def test_heads_are_those_of_the_innermost_configuration():
    shapes = {head_shape(Text(), name).modes for name in attention_projections(Text()) if name.startswith("eyes")}
    assert shapes == {(2, 6, 12)} and head_shape(Text(), "text.bert.encoder.layer.0.attention.self.query").modes == (4, 8, 32)


def test_heads_wider_than_the_model_is_divided_into():
    """Gemma and others have a head_dim of their own."""
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 24}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=60, intermediate_size=48, **sizes)).eval()
    with torch.no_grad():
        before = model(**batch_of("llama")).logits
        model = adapted("llama", base=model, init_weights=True)
        assert torch.equal(logits(model, "llama"), before)
    found = {name.rpartition(".")[2]: layer.head_shape["default"].modes for name, layer in layers(model).items()}
    assert found == {"q_proj": (4, 24, 32), "k_proj": (2, 24, 32), "v_proj": (2, 24, 32), "o_proj": (4, 24, 32)}


# --- Several adapters and what they share. ------------------------------------------------------------------------------


def test_an_adapter_that_is_not_active_is_neither_trained_nor_used_on_layers_of_its_own():
    model = adapted("llama", target_modules=["q_proj"])
    before, trained = logits(model, "llama"), model.get_nb_trainable_parameters()
    model.add_adapter("second", settings("llama", target_modules=["q_proj", "v_proj", "o_proj"], init_weights=False))
    assert torch.equal(logits(model, "llama"), before)
    assert all(p.requires_grad == (".default." in n) for n, p in model.named_parameters() if "tucker_" in n)
    assert model.get_nb_trainable_parameters()[0] == trained[0]
    assert not any(p.requires_grad for n, p in model.named_parameters() if "base_layer" in n)


def test_a_pattern_that_fits_the_inside_of_an_adapted_layer_too():
    target = r".*\.self\.(query|value).*"
    model = adapted(target_modules=target)
    model.add_adapter("second", settings("bert", target_modules=target))
    names = {name for name, layer in layers(model).items() if "second" in layer.r}
    assert names == set(layers(model)) and len(names) == 4


def test_a_deleted_adapter_leaves_no_factors_behind():
    model = adapted(share="layers")
    factor = weakref.ref(next(iter(layers(model).values())).tucker_U1["default"])
    model.add_adapter("second", settings("bert"))
    model.delete_adapter("second")
    model.set_adapter("default")
    assert factor() is not None
    model.add_adapter("third", settings("bert", r=(1, 1, 1)))
    model.delete_adapter("default")
    gc.collect()
    assert factor() is None


@pytest.mark.parametrize("at", ["_prepare_model", "_create_and_replace"])
def test_an_injection_that_fails_leaves_no_factors_behind(at, monkeypatch):
    model, made = adapted(), []
    method = getattr(companion.tucker_lora.TuckerLoraModel, at)

    def failing(self, *args, **kwargs):
        method(self, *args, **kwargs)
        made.extend(weakref.ref(factor) for factor in self._shared.values())
        raise RuntimeError("no memory")

    monkeypatch.setattr(companion.tucker_lora.TuckerLoraModel, at, failing)
    with pytest.raises(RuntimeError, match="no memory"):
        model.add_adapter("second", settings("bert", share="layers"))
    for layer in layers(model).values():
        layer.delete_adapter("second") if "second" in layer.r else None
    gc.collect()
    assert bool(made) == (at == "_create_and_replace") and not any(factor() for factor in made)


# --- Registration. -----------------------------------------------------------------------------------------------------


def test_registering_again_does_nothing():
    register_tucker_lora()
    assert list(PeftType).count("TUCKERLORA") == 1 and PeftType["TUCKERLORA"] is PeftType("TUCKERLORA") is PeftType.TUCKERLORA


def test_another_method_of_the_same_name_is_not_replaced(monkeypatch):
    class Other:
        __module__ = "elsewhere"

    monkeypatch.setitem(companion.tucker_lora.PEFT_TYPE_TO_CONFIG_MAPPING, PeftType.TUCKERLORA, Other)
    with pytest.raises(ValueError, match="elsewhere has already registered"):
        register_tucker_lora()


def test_the_module_can_be_reloaded():
    code = (
        "import importlib, companion.tucker_lora as t, peft; old = t.TuckerLoraConfig; importlib.reload(t)\n"
        "assert peft.mapping.PEFT_TYPE_TO_CONFIG_MAPPING['TUCKERLORA'] is t.TuckerLoraConfig is not old\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# --- Plain LoRA. -------------------------------------------------------------------------------------------------------


def without_the_package(kind, folder, expected):
    """Load the folder where `companion` cannot be imported and compare the logits."""
    torch.save({"batch": dict(batch_of(kind)), "logits": expected}, folder.parent / "expected.pt")
    code = (
        "import sys, torch; sys.modules['companion'] = None; sys.path.insert(0, sys.argv[2])\n"
        "from peft import PeftModel; import tiny_models\n"
        "model = PeftModel.from_pretrained(getattr(tiny_models, 'tiny_' + sys.argv[3])(), sys.argv[1]).eval()\n"
        "saved = torch.load(sys.argv[1] + '/../expected.pt')\n"
        "difference = (model(**saved['batch']).logits - saved['logits']).abs().max().item()\n"
        "assert difference < 1e-5 and type(model.peft_config['default']).__name__ == 'LoraConfig', difference\n"
    )
    subprocess.run([sys.executable, "-c", code, str(folder), str(Path(__file__).parent), kind], check=True)


@each_kind
def test_exported_it_is_plain_lora_with_equal_logits(kind, tmp_path):
    model = adapted(kind, rank_pattern={r".*\.0\..*": (2, 2, 6)})
    if kind == "bert":
        model.base_model.model.classifier.modules_to_save["default"].weight.data.normal_()
    folder = to_lora(model, tmp_path / "deep" / "lora")
    assert sorted(path.name for path in folder.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
    assert [path.name for path in folder.parent.iterdir()] == ["lora"]
    without_the_package(kind, folder, logits(model, kind))
    config = LoraConfig.from_pretrained(folder)
    assert set(config.rank_pattern.values()) == {4} and len(config.rank_pattern) == len(layers(model))
    assert torch.allclose(logits(PeftModel.from_pretrained(MODELS[kind](), folder).eval(), kind), logits(model, kind), atol=1e-5)


def test_an_export_names_one_of_several_adapters(tmp_path):
    model = adapted()
    model.add_adapter("second", settings("bert", target_modules=["key"], init_weights=False))
    model.set_adapter("second")
    folder = to_lora(model, tmp_path / "lora", "second")
    loaded = PeftModel.from_pretrained(tiny_bert(), folder).eval()
    assert torch.allclose(logits(loaded, "bert"), logits(model, "bert"), atol=1e-5)


def test_an_export_is_complete_or_not_there(tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise OSError("the disk is full")

    monkeypatch.setattr(LoraConfig, "save_pretrained", fail)
    with pytest.raises(OSError, match="full"):
        to_lora(adapted(), tmp_path / "lora")
    assert list(tmp_path.iterdir()) == []


class Nested(nn.Module):
    """A module whose full name is the end of another one's."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.attention = nn.ModuleDict({"query": nn.Linear(8, 8)})
        self.decoder = nn.ModuleDict({"attention": nn.ModuleDict({"query": nn.Linear(8, 8)})})

    def forward(self, x):
        return self.decoder["attention"]["query"](self.attention["query"](x))


def test_an_export_adapts_no_module_whose_name_ends_alike(tmp_path):
    config = TuckerLoraConfig(r=(2, 2, 4), target_modules=r"attention\.query", num_heads=2, init_weights=False)
    model = get_peft_model(Nested(), config)
    assert list(layers(model)) == ["attention.query"]
    loaded = PeftModel.from_pretrained(Nested(), to_lora(model, tmp_path / "lora"))
    assert [n for n, m in loaded.get_base_model().named_modules() if isinstance(m, LoraLayer)] == ["attention.query"]
    x = torch.randn(5, 8)
    assert torch.allclose(loaded(x), model(x), atol=1e-5)


def test_an_export_is_as_readable_as_any_folder_and_keeps_its_dropout(tmp_path):
    old = os.umask(0o027)
    try:
        folder = to_lora(adapted(dropout=0.25), tmp_path / "lora")
        (tmp_path / "other").mkdir()
    finally:
        os.umask(old)
    assert folder.stat().st_mode == (tmp_path / "other").stat().st_mode
    assert all(path.stat().st_mode & 0o040 for path in folder.iterdir())
    assert LoraConfig.from_pretrained(folder).lora_dropout == 0.25


@pytest.mark.parametrize("path", [".", "", "../here"])
def test_an_export_does_not_replace_the_current_folder(path, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(ValueError, match="path: got .* the current folder"):
        to_lora(adapted(), path)
    assert [file.name for file in tmp_path.iterdir()] == ["here"] and not any((tmp_path / "here").iterdir())
    assert to_lora(adapted(), "lora") == Path("lora") and (tmp_path / "here" / "lora" / "adapter_config.json").exists()


def test_pefts_own_conversion_agrees():
    model = adapted(r=(2, 2, 4))
    _, found = convert_to_lora(model, rank=4)
    for name, layer in layers(model).items():
        b, a = (found[f"base_model.model.{name}.lora_{kind}.weight"] for kind in "BA")
        assert torch.allclose(b @ a, layer.get_delta_weight("default"), atol=1e-5)


def test_what_cannot_be_exported(tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    model = adapted()
    with pytest.raises(FileExistsError, match="not an empty folder"):
        to_lora(model, tmp_path / "full")
    with pytest.raises(TypeError, match="PeftModel"):
        to_lora(tiny_bert(), tmp_path / "a")
    with pytest.raises(ValueError, match="'other'; the model has 'default'"):
        to_lora(model, tmp_path / "a", "other")
    with pytest.raises(ValueError, match="must be Tucker-LoRA, got LoraConfig"):
        to_lora(get_peft_model(tiny_bert(), LoraConfig(target_modules=["query"])), tmp_path / "a")
    next(iter(layers(model).values())).tucker_core["default"].weight.data.fill_(float("inf"))
    with pytest.raises(ValueError, match="NaN or infinity"):
        to_lora(model, tmp_path / "a")
    assert [path.name for path in tmp_path.iterdir()] == ["full"]


# --- What is not accepted. ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"r": (0, 2, 2)}, r"r: got \(0, 2, 2\); accepted: three integers >= 1"),
        ({"r": (4, -2, 2)}, "three integers"),
        ({"r": (4, 2)}, "three integers"),
        ({"r": 4}, "three integers"),
        ({"r": (True, 2, 2)}, "three integers"),
        ({"r": (2.0, 2, 2)}, "three integers"),
        ({"rank_pattern": {"query": (2, 2, 0)}}, r"rank_pattern\['query'\]: got \(2, 2, 0\)"),
        ({"alpha": 0}, "alpha: got 0"),
        ({"alpha": float("nan")}, "alpha: got nan"),
        ({"dropout": 1.0}, "dropout: got 1.0"),
        ({"share": "all"}, "share: got 'all'; accepted: 'none', 'qkv', 'layers'"),
        ({"num_heads": 0}, "num_heads: got 0"),
        ({"num_heads": "four"}, "num_heads: got 'four'"),
        ({"num_heads": {"query": -1}}, "num_heads: got"),
        ({"layers_pattern": "layer"}, "layers_pattern: accepted only with"),
        ({"target_modules": "query", "layers_to_transform": [0]}, "layers_to_transform: not accepted"),
        ({"task_type": "NOTHING"}, "Invalid task type"),
    ],
)
def test_settings_that_make_no_sense(options, message):
    with pytest.raises(ValueError, match=message):
        TuckerLoraConfig(**options)


def fused(out):
    model = tiny_bert()
    model.bert.encoder.layer[1].attention.self.query = nn.Linear(32, out)
    return model


def quantised():
    model = tiny_bert()
    attention = model.bert.encoder.layer[1].attention.self
    attention.query = Packed4bit(attention.query)
    return model


def stored_as(change):
    """The weight of one query in another form."""
    model = tiny_bert()
    layer = model.bert.encoder.layer[0].attention.self.query
    layer.weight = change(layer.weight.detach())
    return model


class Scaled(torch.Tensor):
    """A tensor that stands for another one, as torchao's do."""


class Codes(nn.Parameter):
    """As bitsandbytes has them, also before they are packed."""


STORED = {
    "int8": lambda weight: nn.Parameter(weight.to(torch.int8), requires_grad=False),
    "float8_e4m3fn": lambda weight: nn.Parameter(weight.to(torch.float8_e4m3fn), requires_grad=False),
    "float8_e5m2": lambda weight: nn.Parameter(weight.to(torch.float8_e5m2), requires_grad=False),
    "Scaled": lambda weight: nn.Parameter(weight.as_subclass(Scaled)),
    "Codes": lambda weight: Codes(weight),
}


@pytest.mark.parametrize("form", STORED)
def test_a_weight_that_is_no_ordinary_parameter_is_refused(form):
    with pytest.raises(TypeError, match=f"layer.0.attention.self.query is quantised or keeps .*{form}.*; load the base in 16"):
        get_peft_model(stored_as(STORED[form]), settings("bert"))


def test_torchs_own_quantised_layers_are_refused():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        base = torch.ao.quantization.quantize_dynamic(tiny_bert(), {nn.Linear}, dtype=torch.qint8)
    with pytest.raises(TypeError, match="self.query is a quantised torch.ao"):
        get_peft_model(base, settings("bert"))


class QuantityLinear(nn.Linear):
    """An ordinary layer, whatever its name."""


class QuantityMLP(nn.Module):
    pass


def test_a_layer_is_judged_by_its_weight_and_not_by_its_name():
    base = tiny_bert()
    expected = logits(base, "bert")
    attention = base.bert.encoder.layer[0].attention.self
    linear = QuantityLinear(32, 32)
    linear.load_state_dict(attention.query.state_dict())
    attention.query = linear
    model = adapted(base=base, init_weights=True)
    assert "bert.encoder.layer.0.attention.self.query" in layers(model) and torch.equal(logits(model, "bert"), expected)
    with pytest.raises(TypeError, match="query is a test_tucker_lora.QuantityMLP; accepted"):
        get_peft_model(nn.ModuleDict({"query": QuantityMLP()}), settings("bert", task_type=None))


def renamed(name):
    model = tiny_bert()
    setattr(model.bert.encoder.layer[1].attention.self, name, nn.Linear(32, 96))
    return model


@pytest.mark.parametrize(
    ("base", "options", "error", "message"),
    [
        (tiny_bert, {"target_modules": ["intermediate.dense"]}, ValueError, "not a projection .* model: query, key, value, attention"),
        (tiny_llama, {"target_modules": ["q_proj", "down_proj"]}, ValueError, "down_proj is not .* accepted in this model: q_proj"),
        (tiny_bert, {"target_modules": "all-linear"}, ValueError, "all-linear"),
        (tiny_gpt2, {"target_modules": ["c_attn"]}, TypeError, "Conv1D .* none: its attention has no separate linear"),
        (tiny_gpt2, {}, TypeError, "Conv1D"),
        (lambda: renamed("qkv"), {"target_modules": ["qkv"]}, ValueError, "qkv is a fused projection"),
        (lambda: renamed("qkv"), {"target_modules": ["qkv"], "num_heads": {"qkv": 12}}, ValueError, "is a fused projection"),
        (lambda: fused(96), {}, ValueError, "layer.1.attention.self.query is a fused projection"),
        (lambda: fused(40), {}, ValueError, "40 features .* 4 heads .* of 8"),
        (quantised, {}, TypeError, "layer.1.attention.self.query is quantised"),
        (tiny_bert, {"target_modules": ["attention"]}, TypeError, "is a .*BertAttention"),
        (tiny_bert, {"r": (5, 2, 2)}, ValueError, r"\(4, 8, 32\) .* accepted along heads: 1 to 4"),
        (tiny_bert, {"r": (2, 9, 2)}, ValueError, "along head_dim: 1 to 8"),
        (tiny_bert, {"r": (2, 2, 33)}, ValueError, "along d_model: 1 to 32"),
        (tiny_llama, {"r": (4, 2, 2)}, ValueError, r"v_proj is a tensor of \(2, 8, 32\)"),
        (tiny_bert, {"num_heads": 5}, ValueError, "32 output features, which is no multiple of 5 heads"),
        (tiny_bert, {"target_modules": ["nothing"]}, ValueError, "not found in the base model"),
        (lambda: nn.Sequential(nn.Linear(4, 4)), {"target_modules": ["0"]}, ValueError, "not a projection"),
        (lambda: nn.ModuleDict({"query": nn.Linear(4, 4)}), {"target_modules": ["query"]}, ValueError, "no configuration tells"),
        (lambda: nn.ModuleDict({"a": nn.MultiheadAttention(8, 2)}), {"target_modules": ["out_proj"]}, TypeError, "MultiheadAttention"),
    ],
)  # fmt: skip
def test_modules_that_cannot_be_adapted(base, options, error, message):
    model = base()
    before = [(name, type(module)) for name, module in model.named_modules()]
    with pytest.raises(error, match=message):
        get_peft_model(model, TuckerLoraConfig(**{"r": (2, 2, 2)} | options))
    assert [(name, type(module)) for name, module in model.named_modules()] == before  # nothing is half done


def test_a_linear_layer_named_in_num_heads_is_taken():
    pattern = {"intermediate.dense": 6}
    model = get_peft_model(tiny_bert(), TuckerLoraConfig(r=(2, 2, 2), target_modules=["query", "intermediate.dense"], num_heads=pattern))
    assert {layer.head_shape["default"].modes for layer in layers(model).values()} == {(4, 8, 32), (6, 8, 32)}


def test_a_second_adapter_that_does_not_fit_leaves_the_first_alone():
    model = adapted()
    before = logits(model, "bert")
    with pytest.raises(ValueError, match="accepted along heads"):
        model.add_adapter("second", settings("bert", r=(5, 2, 2)))
    assert list(model.peft_config) == ["default"] and torch.equal(logits(model, "bert"), before)


def test_an_adapter_of_another_kind_is_in_the_way():
    inside = get_peft_model(tiny_bert(), LoraConfig(target_modules=["query"])).base_model.model
    with pytest.raises((TypeError, ValueError), match="already carries an adapter of another kind"):
        get_peft_model(inside, settings("bert", task_type=None))


@pytest.mark.parametrize(
    ("config", "key"), [({"num_heads": 2, "r": (2, 2, 2)}, "tucker_U1"), ({"r": (2, 2, 3)}, "tucker_U3")]
)  # fmt: skip
def test_loading_an_adapter_of_other_heads_or_ranks(config, key, tmp_path):
    adapted(r=(2, 2, 2)).save_pretrained(tmp_path)
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | config))
    with pytest.raises(ValueError, match=f"does not fit this model: .*{key}"):
        PeftModel.from_pretrained(tiny_bert(), tmp_path)


def test_loading_into_a_model_with_other_heads(tmp_path):
    adapted("bert", target_modules=["query"]).save_pretrained(tmp_path)
    other = tiny_bert()
    other.config.num_attention_heads = 8
    with pytest.raises(ValueError, match="saved with the shape"):
        PeftModel.from_pretrained(other, tmp_path)


def test_counting_an_adapter_that_is_not_there():
    with pytest.raises(ValueError, match="'other'"):
        tucker_parameters(adapted(), "other")


def test_numbers_of_numpy_can_be_saved(tmp_path):
    config = TuckerLoraConfig(alpha=np.float32(2), num_heads={"query": np.int64(4)}, target_modules=["query"], r=(2, 2, 2))
    get_peft_model(tiny_bert(), config).save_pretrained(tmp_path)
    loaded = TuckerLoraConfig.from_pretrained(tmp_path)
    assert loaded.alpha == 2.0 and loaded.num_heads == {"query": 4}
