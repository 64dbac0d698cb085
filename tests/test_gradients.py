"""Mean gradients against autograd, sign-flip floors against planted truth, and the model left as found."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.profiler import ProfilerActivity, profile
from transformers import LlamaConfig, LlamaForCausalLM

from companion.book.planted import planted_layer, spiked_examples
from companion.data import load_model
from companion.gradients import GradientSpectrum, accumulator_bytes, gradient_spectra, mean_gradients
from companion.sign_flips import balanced_signs
from companion.targets import linear_targets
from tiny_models import (
    causal_batches,
    image_batches,
    text_batches,
    tiny_bert,
    tiny_gpt2,
    tiny_llama,
    tiny_vit,
    wide_batches,
    wide_model,
)

CASES = [
    (tiny_bert, text_batches, ["query", "value"]),
    (tiny_bert, text_batches, "all-linear"),
    (tiny_llama, causal_batches, ["q_proj", "k_proj", "o_proj", "down_proj"]),
    (tiny_vit, image_batches, r".*(query|value|dense|q_proj|v_proj|fc1)"),
]


def autograd(model, batches, names) -> dict[str, torch.Tensor]:
    """Reference: gradient of the mean loss over all examples through autograd, one example at a time."""
    weights = [model.get_submodule(name).weight for name in names]
    total, weight_sum = [torch.zeros_like(w) for w in weights], 0.0
    for batch in batches:
        for i in range(len(batch["labels"])):
            example = {key: value[i : i + 1] for key, value in batch.items()}
            labels = example["labels"]
            share = 1.0 if labels.ndim == 1 else float((labels[:, 1:] != -100).sum())
            grads = torch.autograd.grad(model(**example).loss, weights, allow_unused=True)
            for sum_, grad in zip(total, grads, strict=True):
                sum_ += 0 if grad is None else share * grad
            weight_sum += share
    return {name: sum_ / weight_sum for name, sum_ in zip(names, total, strict=True)}


@pytest.mark.parametrize("make, batches, targets", CASES)
@pytest.mark.parametrize("sizes", [13, [1, 7, 5], [6, 6, 1]])
@pytest.mark.parametrize("frozen", [True, False])
def test_equals_autograd_for_any_batches(make, batches, targets, sizes, frozen):
    model = make().requires_grad_(not frozen)
    measured = mean_gradients(model, batches(13, sizes), targets)
    reference = autograd(model.requires_grad_(True), batches(13, 13), list(measured))
    for name, gradient in measured.items():
        top = torch.linalg.matrix_norm(reference[name], 2)
        assert torch.linalg.matrix_norm(gradient.mean - reference[name], 2) < 1e-6 * top, name
        assert gradient.n_examples == 13


def test_spectrum_is_the_svd_in_double_precision():
    model, batches = tiny_bert(), text_batches(16, 5)
    gradients, spectra = (f(model, batches, ["query"], rng=3) for f in (mean_gradients, gradient_spectra))
    for name, spectrum in spectra.items():
        values = np.linalg.svd(gradients[name].mean.double().numpy(), compute_uv=False)
        assert spectrum.singular_values.dtype == np.float64
        np.testing.assert_allclose(spectrum.singular_values, values, atol=1e-14 * values[0])
        flips = gradients[name].flipped.double().numpy()
        np.testing.assert_allclose(spectrum.floors, np.linalg.norm(flips, 2, axis=(1, 2)), rtol=1e-12)
        np.testing.assert_allclose(spectrum.flip_energies, (flips**2).sum((1, 2)), rtol=1e-12)
        assert spectrum.noise_floor == spectrum.floors.max() and spectrum.level == pytest.approx(0.1)
        assert spectrum.shape == (32, 32) and spectrum.n_examples == 16


@pytest.mark.parametrize("n", [8, 9, 16, 65, 512])
@pytest.mark.parametrize("unequal", [False, True])
def test_planted_rank_four_is_found_beside_a_dominant_mode(n, unequal):
    sizes = [1, 2, n - 3] if unequal else n
    for seed in range(5):
        model, batches, loss = planted_layer(spiked_examples(n, [20, 2, 2, 2], (30, 22), np.random.default_rng(seed)), sizes)
        spectrum = gradient_spectra(model, batches, "layer", loss, rng=seed)["layer"]
        assert (spectrum.singular_values > spectrum.noise_floor).sum() == 4


@pytest.mark.parametrize("n, sizes", [(8, 8), (9, [4, 5]), (16, [1, 15]), (70, 16)])
def test_pure_noise_exceeds_the_floor_at_the_stated_level(n, sizes):
    """Binomial: 400 draws at level 0.1 give 40 ± 6; 8 examples of a small matrix are allowed a little more."""
    alarms = 0
    for seed in range(400):
        noise = np.random.default_rng(seed).standard_normal((n, 14, 10))
        model, batches, loss = planted_layer(noise, sizes)
        spectrum = gradient_spectra(model, batches, "layer", loss, rng=seed)["layer"]
        alarms += spectrum.singular_values[0] > spectrum.noise_floor
    assert 22 <= alarms <= 62


@settings(max_examples=40, deadline=None)
@given(st.integers(8, 80), st.integers(3, 40), st.integers(0, 2**32 - 1))
def test_flips_cancel_what_examples_share_and_keep_the_size_of_noise(n, size, seed):
    rng = np.random.default_rng(seed)
    shared = rng.standard_normal((1, 5, 4)).repeat(n, 0)
    model, batches, loss = planted_layer(shared, size)
    gradient = mean_gradients(model, batches, "layer", loss, rng=seed)["layer"]
    assert gradient.flipped.abs().max() < 1e-5 * gradient.mean.abs().max()
    units = np.eye(n).reshape(n, n, 1)  # example i's gradient is the i-th unit vector: the flip shows its weights
    model, batches, loss = planted_layer(units, size)
    weights = n * mean_gradients(model, batches, "layer", loss, rng=seed)["layer"].flipped[:, :, 0].numpy()
    np.testing.assert_allclose(weights.sum(1), 0, atol=1e-4)
    np.testing.assert_allclose((weights**2).mean(1), 1, rtol=1e-4)
    assert len(np.unique(np.abs(weights @ weights.T) > n - 0.5, axis=0)) == len(weights)  # no flip is another or its negative


def test_signs_follow_the_seed_and_not_the_batches():
    model = tiny_bert()
    floors = [
        gradient_spectra(model, text_batches(20, sizes), ["query"], rng=rng)["bert.encoder.layer.1.attention.self.query"].floors
        for sizes, rng in [(20, 1), ([3, 17], 1), (20, np.random.default_rng(1)), (20, 2)]
    ]
    np.testing.assert_allclose(floors[0], floors[1], rtol=1e-4)
    np.testing.assert_array_equal(floors[0], floors[2])
    assert np.abs(floors[0] - floors[3]).max() > 1e-3 * floors[0].max()


def test_small_sets_have_few_splits():
    signs = balanced_signs(8, 35, np.random.default_rng(0))
    assert len({tuple(row * row[0]) for row in signs}) == 35 and not signs.sum(1).any()
    with pytest.raises(ValueError, match="1/36"):
        balanced_signs(8, 36, np.random.default_rng(0))
    with pytest.raises(ValueError, match="at least 8"):
        balanced_signs(7, 1, np.random.default_rng(0))


def test_module_used_twice_adds_up():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.lin = nn.Linear(6, 6)

        def forward(self, x):
            return self.lin(torch.tanh(self.lin(x)))

    model, x = Twice(), torch.randn(10, 6)
    loss = lambda m, batch: m(batch).square().mean()  # noqa: E731
    measured = mean_gradients(model, [x[:4], x[4:]], ["lin"], loss)["lin"].mean
    torch.testing.assert_close(measured, torch.autograd.grad(loss(model, x), model.lin.weight)[0], rtol=1e-5, atol=1e-7)


def snapshot(model):
    return (
        {name: value.clone() for name, value in model.state_dict().items()},
        {name: (p.requires_grad, p.grad) for name, p in model.named_parameters()},
        {name: module.training for name, module in model.named_modules()},
        {name: (len(m._forward_hooks), len(m._forward_pre_hooks)) for name, m in model.named_modules()},
    )


def assert_same(before, after):
    assert all(torch.equal(before[0][name], after[0][name]) for name in before[0])
    assert before[1:] == after[1:]


@pytest.mark.parametrize("fail", [False, True])
def test_model_is_left_exactly_as_found(fail):
    model = tiny_bert()
    model.train()
    model.bert.encoder.layer[0].eval()  # a mixture of modes
    model.bert.embeddings.requires_grad_(False)
    before, state = snapshot(model), torch.get_rng_state()
    batches = text_batches(12, 4)
    if fail:
        batches[2]["labels"] = batches[2]["labels"] + 99  # out of range: the loss itself raises
        with pytest.raises(IndexError):
            mean_gradients(model, batches, ["query"])
    else:
        mean_gradients(model, batches, ["query"])
    assert_same(before, snapshot(model))
    assert torch.equal(state, torch.get_rng_state())


def test_dropout_is_off_and_grad_mode_does_not_matter():
    model, batches = tiny_bert().train(), text_batches(9, 4)
    with torch.no_grad():
        first = mean_gradients(model, batches, ["value"], flips=0)
    second = mean_gradients(model.eval(), batches, ["value"], flips=0)
    for name in first:
        assert torch.equal(first[name].mean, second[name].mean) and first[name].flipped.shape == (0, 32, 32)


def test_half_precision_accumulates_in_single():
    model, batches = tiny_bert(), text_batches(16, 4)
    reference = mean_gradients(model, batches, ["query"])
    measured = mean_gradients(model.bfloat16(), batches, ["query"])
    for name in measured:
        assert measured[name].mean.dtype == torch.float32
        assert (measured[name].mean - reference[name].mean).norm() < 0.1 * reference[name].mean.norm()


@pytest.mark.parametrize("outlier", [1.0, 3000.0])
@pytest.mark.parametrize("sketch", [None, 2])
def test_small_gradients_are_not_lost_in_float16(outlier, sketch):
    def loss(model, batch):  # of a scale that leaves most gradients below 6e-8, or one that leaves little room above
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        return (logits[:, 0] * outlier).mean() + 0 * batch["labels"].sum()

    batches, model = text_batches(24, 8), tiny_bert()
    expected = gradient_spectra(model, batches, ["query", "value"], loss, sketch=sketch)
    found = gradient_spectra(model.half(), batches, ["query", "value"], loss, sketch=sketch)
    for name, spectrum in expected.items():
        np.testing.assert_allclose(found[name].singular_values[:2], spectrum.singular_values[:2], rtol=0.02)
        np.testing.assert_allclose(found[name].floors, spectrum.floors, rtol=0.02)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_input_changed_in_place_is_refused():
    class InPlace(nn.Module):
        def __init__(self):
            super().__init__()
            self.lin = nn.Linear(4, 4)

        def forward(self, x):
            x = x.clone()
            y = self.lin(x)
            x.add_(1.0)
            return y + x

    with pytest.raises(RuntimeError, match="in place"):
        mean_gradients(InPlace(), [torch.randn(8, 4)], ["lin"], lambda m, batch: m(batch).mean())


def test_output_changed_in_place_by_the_model():
    """The first target of a frozen base is where the graph starts; a model may go on with its output as it likes."""

    class InPlace(nn.Module):
        def __init__(self):
            super().__init__()
            self.lin = nn.Linear(4, 4)

        def forward(self, x):
            return torch.relu_(self.lin(x).mul_(2))

    model, x = InPlace(), torch.randn(9, 4, generator=torch.Generator().manual_seed(0))
    loss = lambda m, batch: m(batch).square().mean()  # noqa: E731
    measured = mean_gradients(model.requires_grad_(False), [x], ["lin"], loss)["lin"].mean
    weight = model.lin.weight.requires_grad_(True)
    torch.testing.assert_close(measured, torch.autograd.grad(loss(model, x), weight)[0], rtol=1e-5, atol=1e-7)


# --- memory ------------------------------------------------------------------------------------------------------------


def peak_bytes(call) -> int:
    """Most bytes of tensors made in a call and alive at once, as torch's CPU allocator counts them."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        call()
    events = record.profiler.kineto_results.events()
    events = sorted((event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]")
    return int(np.max(np.cumsum([size for _, size in events]), initial=0))


def test_peak_memory_is_below_one_training_step():
    from peft import LoraConfig, get_peft_model

    ids = torch.randint(1000, 20000, (64, 128), generator=torch.Generator().manual_seed(0))
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": torch.arange(64) % 2}
    model, targets = load_model("minilm"), ["query", "value"]
    lora = get_peft_model(load_model("minilm"), LoraConfig(r=8, target_modules=targets, task_type="SEQ_CLS")).train()
    optimizer = torch.optim.AdamW(p for p in lora.parameters() if p.requires_grad)

    def step():
        lora(**batch).loss.backward()
        optimizer.step()

    assert peak_bytes(lambda: gradient_spectra(model, [batch], targets)) < 0.6 * peak_bytes(step)


@pytest.mark.parametrize("sketch", [None, 2])
def test_peak_memory_is_what_is_documented(sketch):
    """Here everything but the accumulators fits into the room that the activations of a pass leave behind."""
    model, batches, targets = wide_model("llama", 256), wide_batches("llama", 32, 8), ["q_proj", "v_proj"]
    model.requires_grad_(False)
    model.model.layers[0].input_layernorm.weight.requires_grad_(True)
    plain = peak_bytes(lambda: model(**batches[0]).loss.backward())
    ours = peak_bytes(lambda: gradient_spectra(model, batches, targets, flips=19, sketch=sketch))
    sums, matrix = accumulator_bytes(model, targets, flips=19, sketch=sketch), 256 * 256 * 4
    assert sums > 5 * matrix
    assert ours < plain + sums + 2 * matrix


# --- bad input ---------------------------------------------------------------------------------------------------------


def raises(match, *args, error=ValueError, **kwargs):
    with pytest.raises(error, match=match):
        mean_gradients(*args, **kwargs)


def test_bad_data():
    model, good = tiny_bert(), text_batches(8, 8)
    raises("no examples", model, [], ["query"])
    raises("got 5 examples.*at least 8", model, text_batches(5, 2), ["query"])
    assert mean_gradients(model, text_batches(5, 2), ["query"], flips=0)
    raises("'labels'", model, [{k: v for k, v in good[0].items() if k != "labels"}], ["query"])
    raises("mapping", model, [(good[0]["input_ids"], good[0]["labels"])], ["query"])
    raises("type dict without a tensor", model, [{"text": ["a", "b"]}], ["query"])
    raises("batch without examples", model, [*good, {k: v[:0] for k, v in good[0].items()}], ["query"])
    raises("dataloader: got NoneType", model, None, ["query"], error=TypeError)
    raises("flips", model, good, ["query"], flips=-1)
    raises("1/36", model, good, ["query"], flips=99)


def test_bad_losses():
    model, good = tiny_bert(), text_batches(16, 8)
    raises("batch 0 gave nan", model, good, ["query"], loss_fn=lambda m, b: m(**b).loss * float("nan"))
    raises("scalar", model, good, ["query"], loss_fn=lambda m, b: m(**b).logits)
    raises("exactly zero", model, good, ["query"], loss_fn=lambda m, b: m(**b).loss * 0)
    raises("exactly zero", model, good, ["query"], loss_fn=lambda m, b: m(**b).loss.detach())
    raises("no loss", tiny_bert().bert, good, ["query"], error=(ValueError, TypeError))


def test_bad_targets():
    good = text_batches(8, 8)
    raises("matches no module.*query", tiny_bert(), good, ["nosuch"])
    raises("matches no module", tiny_bert(), good, "query")  # a string is a pattern for the whole name
    raises("regular expression", tiny_bert(), good, "(")
    raises("non-empty list", tiny_bert(), good, [])
    raises("target_modules: got .None.", tiny_bert(), good, None)
    raises("Conv1D", tiny_gpt2(), causal_batches(8, 8), ["c_attn"], error=TypeError)
    raises("LayerNorm", tiny_bert(), good, ["LayerNorm"], error=TypeError)
    with pytest.warns():  # torch announces the end of this kind of quantisation
        quantised = torch.ao.quantization.quantize_dynamic(tiny_bert(), {nn.Linear}, dtype=torch.qint8)
    raises("quantised", quantised, good, ["query"], error=TypeError)  # no gradient passes it
    integer = tiny_bert()
    layer = integer.bert.encoder.layer[0].attention.self.query
    layer.weight = nn.Parameter(layer.weight.to(torch.int8), requires_grad=False)
    raises("int8", integer, good, ["query"], error=TypeError)


def test_all_linear_leaves_out_the_head():
    names = set(linear_targets(tiny_bert(), "all-linear"))
    assert "classifier" not in names and "bert.pooler.dense" in names
    assert "lm_head" not in set(linear_targets(tiny_llama(), "all-linear"))


def test_silent_target_is_reported_and_gets_zeros():
    class Unused(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.idle = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x):
            return self.used(x)

    with pytest.warns(UserWarning, match="zero gradient in idle"):
        spectra = gradient_spectra(Unused(), [torch.randn(8, 4)], ["used", "idle"], lambda m, b: m(b).square().mean())
    assert not spectra["idle"].singular_values.any() and spectra["used"].singular_values.any()


def test_spectrum_without_flips_has_no_floor():
    spectrum = GradientSpectrum(np.ones(2), np.empty(0), (2, 2), 5)
    with pytest.raises(ValueError, match="flips=0"):
        _ = spectrum.noise_floor


# --- found by trying to break it ---------------------------------------------------------------------------------------


def test_parts_without_gradient_are_left_alone():
    model, batches = tiny_bert(), text_batches(12, 5)

    def loss(m, batch):
        with torch.no_grad():  # a reference pass, as in preference losses
            shift = m(**batch).logits.mean()
        return m(**batch).loss + shift

    measured, plain = (mean_gradients(model, batches, ["query"], fn) for fn in (loss, None))
    for name in plain:
        torch.testing.assert_close(measured[name].mean, plain[name].mean, rtol=1e-5, atol=1e-9)


def test_token_weights_do_not_depend_on_the_class_name():
    class Wrapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = tiny_llama()

        def forward(self, **batch):
            return self.inner(**batch)

    measured = mean_gradients(Wrapped(), causal_batches(13, [1, 7, 5]), ["q_proj"])
    plain = mean_gradients(tiny_llama(), causal_batches(13, 13), ["q_proj"])
    for name, gradient in plain.items():
        assert (measured[f"inner.{name}"].mean - gradient.mean).norm() < 1e-5 * gradient.mean.norm()


def test_buffers_and_other_hooks_survive():
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.lin = nn.Linear(5, 5)
            self.register_buffer("calls", torch.zeros(1))

        def forward(self, x):
            self.calls += 1
            return self.lin(x)

    model, x = Counting(), torch.randn(9, 5)
    model.lin.register_forward_hook(lambda module, args, output: output * 0.5)
    loss = lambda m, batch: m(batch).square().mean()  # noqa: E731
    measured = mean_gradients(model, [x], ["lin"], loss)["lin"].mean
    assert model.calls.item() == 0
    torch.testing.assert_close(measured, torch.autograd.grad(loss(model, x), model.lin.weight)[0], rtol=1e-5, atol=1e-7)


def test_exchanged_buffers_are_put_back():
    config = LlamaConfig(
        vocab_size=60, hidden_size=32, num_hidden_layers=1, num_attention_heads=4, intermediate_size=48, max_position_embeddings=4,
        rope_parameters={"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0},
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    before, batches = {name: buffer.clone() for name, buffer in model.named_buffers()}, causal_batches(12, 6)
    first = mean_gradients(model, batches, ["q_proj"], flips=1)
    assert all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())
    again = mean_gradients(model, batches, ["q_proj"], flips=1)
    assert all(torch.equal(first[name].mean, again[name].mean) for name in first)


def test_autocast_around_the_call():
    model, batches = tiny_bert(), text_batches(12, 5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        measured = mean_gradients(model, batches, ["query"])
    for name, gradient in mean_gradients(model, batches, ["query"]).items():
        assert (measured[name].mean - gradient.mean).norm() < 0.1 * gradient.mean.norm()


def test_tokenizer_containers_and_bad_labels():
    from transformers import BatchEncoding

    batches = text_batches(9, 4)
    encoded = [BatchEncoding(batch) for batch in batches]
    loss = lambda m, batch: m(input_ids=batch.input_ids, labels=batch.labels).loss  # noqa: E731
    assert mean_gradients(tiny_bert(), encoded, ["query"], loss)
    raises("labels came as list", tiny_bert(), [{**batches[0], "labels": [0, 1, 0, 1]}], ["query"], flips=0)


def test_one_example_with_all_the_weight():
    batches = causal_batches(9, 9)
    batches[0]["labels"][1:] = -100
    raises("all the weight", tiny_llama(), batches, ["q_proj"])
