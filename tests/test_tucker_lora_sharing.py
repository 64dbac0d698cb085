"""Factors shared over an attention block or over the layers: one tensor, counted, trained and saved once."""

import pytest
import torch
from peft import PeftModel, get_peft_model, get_peft_model_state_dict
from safetensors import safe_open
from test_tucker_lora import MODELS, TARGETS, TASKS, adapted, batch_of, layers, logits, settings, without_the_package
from tiny_models import tiny_bert
from transformers import BertConfig, BertModel

from companion.tucker_export import to_lora
from companion.tucker_lora import TuckerLoraConfig, tucker_parameters
from companion.tucker_sharing import scope

each_kind = pytest.mark.parametrize("kind", MODELS)
each_share = pytest.mark.parametrize("share", ["qkv", "layers"])
R1, R2, R3 = 2, 3, 4
CORE, U1, U2, U3 = R1 * R2 * R3, 4 * R1, 8 * R2, 32 * R3


@each_kind
@each_share
def test_parameters_are_counted_once(kind, share):
    model = adapted(kind, share=share)
    counts = tucker_parameters(model)
    matrices, kinds = len(layers(model)), len(TARGETS[kind])
    if share == "qkv":  # two layers; U3 of what reads and of what writes; keys and values of a Llama have half the heads
        expected = matrices * CORE + 2 * (U1 + U2 + 2 * U3) + (2 * U1 // 2 if kind == "llama" else 0)
    else:
        expected = matrices * CORE + kinds * (U1 + U2 + U3) - (2 * U1 // 2 if kind == "llama" else 0)
    assert counts["total"] == expected < counts["unshared"]
    trained = sum(p.numel() for n, p in model.named_parameters() if p.requires_grad and "tucker_" in n)
    assert trained == expected == sum(v.numel() for k, v in get_peft_model_state_dict(model).items() if "tucker_" in k)


@each_kind
@each_share
def test_the_start_changes_nothing_and_training_keeps_them_equal(kind, share):
    base = MODELS[kind]()
    before = logits(base, kind)
    model = get_peft_model(base, settings(kind, share=share))
    assert torch.equal(logits(model, kind), before)
    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=1e-2)
    losses = []
    for _ in range(6):
        loss = model.train()(**batch_of(kind)).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    same = [layer for name, layer in layers(model).items() if name.endswith(TARGETS[kind][0])]
    shared = same[0].tucker_U3["default"].weight is same[1].tucker_U3["default"].weight
    assert shared == (share == "layers")


@each_kind
@each_share
@pytest.mark.parametrize("low_memory", [False, True])
def test_saved_once_and_loaded_shared(kind, share, low_memory, tmp_path):
    model = adapted(kind, share=share)
    model.save_pretrained(tmp_path)
    with safe_open(tmp_path / "adapter_model.safetensors", "pt") as file:
        sizes = [file.get_tensor(key).numel() for key in file.keys() if "tucker_" in key]  # noqa: SIM118
    assert sum(sizes) == tucker_parameters(model)["total"]
    loaded = PeftModel.from_pretrained(MODELS[kind](), tmp_path, low_cpu_mem_usage=low_memory, is_trainable=True).eval()
    assert torch.equal(logits(loaded, kind), logits(model, kind))
    assert tucker_parameters(loaded) == tucker_parameters(model)
    assert loaded.get_nb_trainable_parameters() == model.get_nb_trainable_parameters()
    loaded.merge_adapter(safe_merge=True)
    assert torch.allclose(logits(loaded, kind), logits(model, kind), atol=1e-5)


@each_share
def test_adapters_do_not_share_with_each_other(share):
    model = adapted("bert", share=share)
    before = logits(model, "bert")
    model.add_adapter("second", settings("bert", share=share, init_weights=False))
    first, second = (tucker_parameters(model, name) for name in ("default", "second"))
    assert first == second
    model.delete_adapter("second")
    model.set_adapter("default")
    assert torch.equal(logits(model, "bert"), before) and tucker_parameters(model) == first


def test_modules_of_other_ranks_do_not_share():
    ranks = {"query": (2, 3, 4), "value": (2, 3, 5)}
    config = TuckerLoraConfig(target_modules=["query", "value"], rank_pattern=ranks, share="qkv", task_type=TASKS["bert"])
    model = get_peft_model(MODELS["bert"](), config)
    query, value = list(layers(model).values())[:2]
    assert query.tucker_U1["default"] is value.tucker_U1["default"]
    assert query.tucker_U3["default"] is not value.tucker_U3["default"]


def test_what_shares_with_what():
    names = ["a.0.attention.self.query", "a.0.attention.output.dense", "a.0.crossattention.self.query", "a.1.attention.self.query"]
    assert [scope("qkv", name) for name in names] == ["a.0.attention", "a.0.attention", "a.0.crossattention", "a.1.attention"]
    assert len({scope("layers", name) for name in names}) == 3
    assert scope("layers", "stages.0.1.query") == scope("layers", "stages.2.3.query") != scope("layers", "stages.2.3.key")
    assert scope("qkv", "stages.0.1.query") == scope("qkv", "stages.0.1.key") != scope("qkv", "stages.0.2.key")


@each_share
def test_a_base_in_bfloat16(share):
    model = get_peft_model(MODELS["bert"]().to(torch.bfloat16), settings("bert", share=share))
    counts = tucker_parameters(model)
    assert counts["total"] < counts["unshared"]
    assert {p.dtype for n, p in model.named_parameters() if "tucker_" in n} == {torch.float32}


@each_kind
@each_share
def test_exported_it_is_plain_lora_with_equal_logits(kind, share, tmp_path):
    model = adapted(kind, share=share)
    without_the_package(kind, to_lora(model, tmp_path / "lora"), logits(model, kind))


@pytest.mark.parametrize(("share", "total"), [("none", 82_944), ("qkv", 39_744), ("layers", 7_616)])
def test_counts_for_the_attention_of_a_base_sized_model(share, total):
    """Tensors (12, 64, 768), ranks (4, 2, 2), as in P2 appendix G.4: 1,728 parameters a matrix; LoRA of rank 2 has 3,072."""
    with torch.device("meta"):
        base = BertModel(BertConfig())
    targets = ["query", "key", "value", "attention.output.dense"]
    counts = tucker_parameters(get_peft_model(base, TuckerLoraConfig(r=(4, 2, 2), target_modules=targets, share=share)))
    assert (counts["total"], counts["unshared"]) == (total, 48 * 1_728)


def test_factors_are_not_shared_over_precisions():
    model = tiny_bert()
    model.bert.encoder.layer[1].double()
    adapted = get_peft_model(model, TuckerLoraConfig(r=(2, 2, 2), target_modules=["query"], share="layers"))
    first, second = (layer.attention.self.query for layer in adapted.base_model.model.bert.encoder.layer)
    assert first.tucker_U1["default"] is not second.tucker_U1["default"]
    assert first.tucker_U1["default"].weight.dtype == torch.float32 and second.tucker_U1["default"].weight.dtype == torch.float64
