"""The experiments behind the practice chapters: what their records mean, on small real models."""

import json

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import LoraLayer

from companion import data
from companion.book import estimates, real_layers
from companion.finetune import finetune, head_of
from companion.gradients import mean_gradients
from companion.spectral_lora import to_lora_config
from test_methods import Loader
from tiny_models import text_batches, tiny_bert

TARGETS = ["query", "value"]


def test_pooled_batches_are_the_gradient_of_all_examples():
    batches = text_batches(40, [16, 16, 8])
    parts = [mean_gradients(tiny_bert(), [batch], TARGETS, flips=4, rng=i) for i, batch in enumerate(batches)]
    whole = mean_gradients(tiny_bert(), batches, TARGETS, flips=4)
    for name, gradient in whole.items():
        pooled = estimates._pooled([part[name] for part in parts])
        assert pooled.n_examples == 40 and pooled.flipped.shape == gradient.flipped.shape
        torch.testing.assert_close(pooled.mean, gradient.mean, rtol=1e-4, atol=1e-7)


def test_early_gradients_follow_the_head_and_leave_the_rest():
    model, batches = tiny_bert(), text_batches(64, 16)
    before = {name: p.clone() for name, p in model.named_parameters()}
    spectra = estimates._early_spectra(model, batches, TARGETS, 4, 0)
    assert all(s.n_examples == 64 and len(s.floors) == 4 for s in spectra.values())
    changed = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert changed == {"classifier.weight", "classifier.bias"} and head_of(model) is model.classifier
    one = estimates._early_spectra(tiny_bert(), batches[:1], TARGETS, 4, 0)
    first = mean_gradients(tiny_bert(), batches[:1], TARGETS, flips=4, rng=np.random.default_rng(0))
    for name, spectrum in one.items():
        np.testing.assert_allclose(spectrum.singular_values[0], np.linalg.norm(first[name].mean.numpy(), 2), rtol=1e-5)


def test_a_record_of_an_estimate_is_whole_and_its_draws_are_disjoint():
    config = {"task": "stsb-mini", "head": "fresh", "examples": 64, "draw": 1, "flips": 3, "seed": 0}
    record = estimates.run(config)
    json.dumps(record, allow_nan=False)
    metrics = record["metrics"]
    assert len(metrics["names"]) == len(metrics["values"]) == len(metrics["floor"]) == 12
    assert set(metrics["ranks"]) == set(estimates.RULES) and all(len(ranks) == 12 for ranks in metrics["ranks"].values())
    other = estimates.run(config | {"draw": 2})["metrics"]
    assert other["values"] != metrics["values"]
    with pytest.raises(ValueError, match="has no draw 99 of 64 examples"):
        estimates.run(config | {"draw": 99})


def test_the_study_of_estimates_reaches_the_whole_training_set():
    configs = estimates.configurations(["stsb-mini"])
    available = len(data.load_task("stsb-mini")) - estimates.WARM_UP
    assert max(c["examples"] for c in configs) == available
    assert all((c["draw"] + 1) * c["examples"] <= available for c in configs)
    assert len({json.dumps(c) for c in configs}) == len(configs)
    assert {c["head"] for c in configs} == set(estimates.HEADS)


def adapted(rank=4, init="peft"):
    model = tiny_bert()
    names = [name for name, _ in model.named_modules() if name.endswith(real_layers.TARGETS)]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = to_lora_config(dict.fromkeys(names, rank), LoraConfig(task_type="SEQ_CLS"), real_layers.SCALING)
        model = get_peft_model(model, config)
    real_layers.start(model, init, seed=1)
    return model


def test_frames_are_orthonormal_up_to_their_size_and_others_are_refused():
    for layer in adapted(init="frame:0.01").modules():
        if isinstance(layer, LoraLayer):
            a = layer.lora_A["default"].weight.detach()
            torch.testing.assert_close(a @ a.T, 1e-4 * torch.eye(4))
    with pytest.raises(ValueError, match="init: got 'zeros'"):
        adapted(init="zeros")


def test_the_log_sees_every_checkpoint_and_small_gradient_steps_keep_the_balance():
    drifts = {}
    for rate, repeats in ((8.0, 5), (0.8, 50)):
        model = adapted(init="frame:0.1")
        log = real_layers.FactorLog(model, every=10 * repeats // 5)
        batches = Loader(text_batches(64, 16) * repeats)
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        finetune(model, batches, 2, rate, optimizer="sgd", callbacks=[log])
        total = len(batches) * 2
        assert log.steps == [0, *range(log.every, total + 1, log.every)]
        assert log.times[0] == 0 and np.all(np.diff(log.times) > 0) and log.times[-1] < rate * total
        found = [real_layers.trajectory(factors, real_layers.SCALING) for factors in log.factors.values()]
        drifts[rate] = max(max(layer["balance_drift"]) for layer in found)
        for layer in found:
            values, amplitudes = np.array(layer["singular_values"]), np.array(layer["amplitudes"])
            np.testing.assert_allclose(values[-1, :4], amplitudes[-1, :4], rtol=1e-3, atol=1e-9)
            assert not values[0].any() and np.all(np.abs(amplitudes[:, 0]) <= values[:, 0] * 1.001 + 1e-12)
    assert 1e-5 < drifts[0.8] < drifts[8.0] / 3  # of first order in the step
