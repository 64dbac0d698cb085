"""Ranks in, PEFT adapters out: exactly these ranks and scalings, also after save and reload."""

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn

from companion.book.planted import planted_layer, spiked_examples
from companion.gradients import GradientSpectrum, gradient_spectra
from companion.rank_rules import gap_rank
from companion.spectral_lora import default_targets, spectral_lora_config, spectral_ranks, to_lora_config
from tiny_models import causal_batches, text_batches, tiny_bert, tiny_llama, tiny_vit


def spectrum(values, floor=1.0, shape=None) -> GradientSpectrum:
    values = np.array(values, float)
    return GradientSpectrum(values, np.array([0.5, floor, 0.1]), shape or (len(values), len(values)), 64)


SPECTRA = {"a.query": spectrum([9, 5, 0.5]), "b.query": spectrum([0.9, 0.2, 0.1]), "c.value": spectrum([4, 3, 2])}


def test_ranks_by_name_parameter_or_callable():
    assert spectral_ranks(SPECTRA) == {"a.query": 2, "b.query": 0, "c.value": 3}
    assert spectral_ranks(SPECTRA, "floor", max_rank=2, min_rank=1) == {"a.query": 2, "b.query": 1, "c.value": 2}
    assert spectral_ranks(SPECTRA, "energy:1") == {"a.query": 3, "b.query": 3, "c.value": 3}
    assert spectral_ranks(SPECTRA, gap_rank) == spectral_ranks(SPECTRA, "gap")
    assert spectral_ranks(SPECTRA, lambda s: s.n_examples // 32) == dict.fromkeys(SPECTRA, 2)


@pytest.mark.parametrize(
    "arguments, name",
    [
        ({"spectra": {}}, "spectra"),
        ({"min_rank": -1}, "min_rank"),
        ({"max_rank": 0}, "max_rank"),
        ({"max_rank": 2, "min_rank": 3}, "max_rank"),
        ({"rule": "best"}, "rule"),
    ],
)
def test_bad_rank_arguments_are_named(arguments, name):
    with pytest.raises(ValueError, match=name):
        spectral_ranks(**{"spectra": SPECTRA, **arguments})


def adapters(model) -> dict[str, tuple[int, float]]:
    """Rank and scaling of every LoRA layer, read from the weights themselves."""
    return {
        name.removeprefix("base_model.model."): (module.lora_A["default"].weight.shape[0], module.scaling["default"])
        for name, module in model.named_modules()
        if hasattr(module, "lora_A") and "default" in module.lora_A
    }


@pytest.mark.parametrize("make, ending", [(tiny_bert, "query"), (tiny_llama, "q_proj"), (tiny_vit, ("query", "q_proj"))])
@pytest.mark.parametrize("rslora", [False, True])
def test_exact_ranks_and_scalings_after_save_and_reload(make, ending, rslora, tmp_path):
    model = make()
    names = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    ranks = {name: [3, 0, 1, 8][i % 4] for i, name in enumerate(n for n in names if "layer" in n)}
    assert any(name.endswith(ending) for name in ranks)
    base = LoraConfig(r=4, lora_alpha=16, lora_dropout=0.1, use_rslora=rslora)
    config = to_lora_config(ranks, base, scaling=1.5)
    expected = {name: (rank, pytest.approx(1.5)) for name, rank in ranks.items() if rank}
    adapted = get_peft_model(make(), config)
    assert adapters(adapted) == expected
    adapted.save_pretrained(tmp_path)
    reloaded = PeftModel.from_pretrained(make(), tmp_path)
    assert adapters(reloaded) == expected
    assert base.rank_pattern == {} and base.target_modules is None and config.lora_dropout == 0.1


def test_default_scaling_is_two():
    config = to_lora_config({"x": 3}, LoraConfig())
    assert config.rank_pattern == {"x": 3} and config.alpha_pattern == {"x": 6.0}


def test_names_that_end_in_each_other():
    class Inner(nn.Module):
        def __init__(self):
            super().__init__()
            self.query = nn.Linear(4, 4)

    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.tower, self.other = Inner(), nn.ModuleDict({"tower": Inner()})

    for ranks in [{"tower.query": 1, "other.tower.query": 3}, {"tower.query": 2, "other.tower.query": 0}]:
        adapted = get_peft_model(Two(), to_lora_config(ranks, LoraConfig()))
        assert {name: rank for name, (rank, _) in adapters(adapted).items()} == {n: r for n, r in ranks.items() if r}
    # a module outside the targets is protected as well, since the model is known there
    model, batches = Two(), [torch.randn(8, 4)]
    loss = lambda m, b: m.tower.query(b).square().mean()  # noqa: E731
    config = spectral_lora_config(model, batches, LoraConfig(target_modules=r"tower\.query"), "gap", loss_fn=loss, flips=0)
    assert list(adapters(get_peft_model(model, config))) == ["tower.query"]


@pytest.mark.parametrize(
    "ranks, base, scaling, match",
    [
        ({"x": 0, "y": 0}, {}, 2.0, "every rank is 0"),
        ({}, {}, 2.0, "every rank is 0"),
        ({"x": -1}, {}, 2.0, "ranks"),
        ({"x": 1.5}, {}, 2.0, "ranks"),
        ({"x": True}, {}, 2.0, "ranks"),
        ({"x": 1}, {}, 0.0, "scaling"),
        ({"x": 1}, {}, float("nan"), "scaling"),
        ({"x": 1}, {}, "2", "scaling: got '2'; accepted: a finite number > 0"),
        ({"x": 1}, {"target_modules": ["x"], "layers_to_transform": [0]}, 2.0, "layers_to_transform"),
    ],
)
def test_bad_configurations_are_named(ranks, base, scaling, match):
    with pytest.raises(ValueError, match=match):
        to_lora_config(ranks, LoraConfig(**base), scaling)


def planted(strengths, n=64):
    return planted_layer(spiked_examples(n, strengths, (24, 16), np.random.default_rng(5)), 20)


def test_planted_rank_reaches_the_adapter():
    model, batches, loss = planted([20, 2, 2, 2])
    config = spectral_lora_config(model, batches, LoraConfig(target_modules=["layer"]), loss_fn=loss)
    assert adapters(get_peft_model(model, config)) == {"layer": (4, 2.0)}


def test_noise_gives_no_module_and_says_what_to_do():
    model, batches, loss = planted([])
    with pytest.raises(ValueError, match="rank 0 to every matrix.*cannot be told from noise.*uniform rank"):
        spectral_lora_config(model, batches, LoraConfig(target_modules=["layer"]), loss_fn=loss)
    with pytest.warns(UserWarning, match="uniform rank"):
        config = spectral_lora_config(model, batches, LoraConfig(target_modules=["layer"]), loss_fn=loss, min_rank=1)
    assert config.rank_pattern == {"layer": 1}


def test_default_targets_are_pefts():
    assert default_targets(tiny_bert()) == ["query", "value"]
    assert default_targets(tiny_llama()) == ["q_proj", "v_proj"]
    with pytest.raises(ValueError, match="target_modules"):
        default_targets(nn.Linear(2, 2))
    config = spectral_lora_config(tiny_bert(), text_batches(16, 8), LoraConfig(task_type="SEQ_CLS"), "energy:0.5", flips=0)
    assert {name.rsplit(".", 1)[-1] for name in config.target_modules} == {"query", "value"}
    assert spectral_lora_config(tiny_llama(), causal_batches(16, 8), LoraConfig(), "gap", flips=0).rank_pattern


def test_models_already_adapted_are_refused():
    model = get_peft_model(tiny_bert(), LoraConfig(target_modules=["query"]))
    with pytest.raises(TypeError, match="before get_peft_model"):
        gradient_spectra(model, text_batches(8, 8), ["query"])


def test_a_sketch_gives_the_ranks_of_the_whole_spectra():
    model, batches = tiny_bert(), text_batches(64, 16)
    found = [
        spectral_lora_config(model, batches, LoraConfig(target_modules=["query", "value"]), "floor:0.3", 6, 1, sketch=sketch)
        for sketch in (None, 8)
    ]
    assert found[0].rank_pattern == found[1].rank_pattern
