"""Gradient spectra of models with packed weights, against float models with the same weights, and what is refused."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from companion.gradients import accumulator_bytes, gradient_spectra, mean_gradients
from companion.targets import is_packed, linear_targets, packed_modules
from test_gradients import assert_same, snapshot
from tiny_models import causal_batches, image_batches, text_batches, tiny_bert, tiny_gpt2, tiny_llama, tiny_vit

ATTENTION = ["query", "value"]


class Packed4bit(nn.Module):
    """Two 4-bit codes a byte and a scale for each row, as GPTQ and AWQ keep them: no `weight`, all in buffers."""

    def __init__(self, linear: nn.Linear):
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        weight = linear.weight.detach()
        scale = weight.abs().amax(1, keepdim=True) / 7
        codes = (weight / scale).round().add(8).to(torch.uint8)
        self.register_buffer("scale", scale)
        self.register_buffer("codes", codes[:, ::2] * 16 + codes[:, 1::2])
        self.bias = linear.bias

    def dequantised(self) -> torch.Tensor:
        codes = torch.stack([self.codes // 16, self.codes % 16], dim=2).flatten(1)
        return (codes.to(self.scale) - 8) * self.scale

    def forward(self, x):
        bias = None if self.bias is None else self.bias.to(x)
        return functional.linear(x, self.dequantised().to(x), bias)


class GradientInTrainingOnly(Packed4bit):
    """AWQ's layers do this."""

    def forward(self, x):
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.training):
            return super().forward(x)


class InferenceOnly(Packed4bit):
    def forward(self, x):
        with torch.no_grad():
            return super().forward(x)


class CastsItself(Packed4bit):
    """bitsandbytes casts its bias and notes the type, AWQ's torch kernel its scales, at the first input."""

    seen = None

    def forward(self, x):
        self.seen = x.dtype
        self.bias.data = self.bias.data.to(x.dtype)
        self.scale = self.scale.to(x.dtype)
        return super().forward(x)


def replaced(model, make, only=lambda name: True):
    """A copy with every linear layer but the head replaced by `make(layer)`."""
    model = copy.deepcopy(model)
    for name in linear_targets(model, "all-linear"):
        if only(name):
            model.set_submodule(name, make(model.get_submodule(name)))
    return model


def is_attention(name):
    return name.endswith(("query", "value"))


def float_twin(model, packed, weight_of=lambda layer: layer.dequantised()):
    """The float model with the weights that the packed one stands for."""
    twin = copy.deepcopy(model)
    for name, layer in packed_modules(packed).items():
        twin.get_submodule(name).weight.data = weight_of(layer).detach().to(twin.get_submodule(name).weight)
    return twin


def assert_spectra_agree(measured, reference, tolerance=1e-5):
    assert list(measured) == list(reference)
    for name, spectrum in measured.items():
        expected, atol = reference[name], tolerance * reference[name].singular_values[0]
        np.testing.assert_allclose(spectrum.singular_values, expected.singular_values, atol=atol, err_msg=name)
        np.testing.assert_allclose(spectrum.floors, expected.floors, atol=atol, err_msg=name)
        assert spectrum.shape == expected.shape


# --- a layer of our own -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Packed4bit, GradientInTrainingOnly])
@pytest.mark.parametrize(
    "make, batches", [(tiny_bert, text_batches), (tiny_llama, causal_batches), (tiny_vit, image_batches)]
)
def test_packed_weights_give_the_spectra_of_the_same_float_weights(kind, make, batches):
    packed = replaced(make(), kind)
    data = batches(16, [7, 9])
    reference = gradient_spectra(float_twin(make(), packed), data, "all-linear")
    assert all(is_packed(packed.get_submodule(name)) for name in reference)
    assert_spectra_agree(gradient_spectra(packed, data, "all-linear"), reference)


def test_some_layers_packed_and_others_not():
    packed = replaced(tiny_bert(), Packed4bit, lambda name: "query" in name or "intermediate" in name)
    data = text_batches(12, 5)
    reference = gradient_spectra(float_twin(tiny_bert(), packed), data, "all-linear")
    assert_spectra_agree(gradient_spectra(packed, data, "all-linear"), reference)


def test_packed_model_in_bfloat16():
    packed = replaced(tiny_bert(), Packed4bit)
    data = text_batches(16, 8)
    reference = mean_gradients(float_twin(tiny_bert(), packed), data, ATTENTION)
    for name, gradient in mean_gradients(packed.bfloat16(), data, ATTENTION).items():
        assert gradient.mean.dtype == torch.float32
        assert (gradient.mean - reference[name].mean).norm() < 0.1 * reference[name].mean.norm()


def test_packed_model_in_double_precision():
    packed = replaced(tiny_bert().double(), Packed4bit)
    found = mean_gradients(packed, text_batches(8, 8), ATTENTION)
    assert all(gradient.mean.dtype == torch.float64 for gradient in found.values())


@pytest.mark.parametrize("kind", [Packed4bit, GradientInTrainingOnly, CastsItself])
def test_packed_model_is_left_exactly_as_found(kind):
    model = replaced(tiny_bert().bfloat16(), lambda layer: kind(layer.float()), only=is_attention)
    model.train()
    model.bert.encoder.layer[0].eval()
    before = snapshot(model)
    attributes = {name: getattr(module, "seen", None) for name, module in model.named_modules()}
    mean_gradients(model, text_batches(12, 4), ATTENTION, lambda m, b: m(**b).loss.float())
    assert_same(before, snapshot(model))
    assert attributes == {name: getattr(module, "seen", None) for name, module in model.named_modules()}
    assert all(model.state_dict()[name].dtype == value.dtype for name, value in before[0].items())


def test_packed_weights_are_not_copied(monkeypatch):
    model, copied = replaced(tiny_bert(), Packed4bit), []
    clone = torch.Tensor.clone
    monkeypatch.setattr(torch.Tensor, "clone", lambda self, **kwargs: copied.append(self) or clone(self, **kwargs))
    mean_gradients(model, text_batches(8, 8), ATTENTION)
    assert not any(tensor.dtype == torch.uint8 for tensor in copied)


def test_size_of_the_sums_is_known_before():
    packed = replaced(tiny_bert(), Packed4bit)
    assert accumulator_bytes(packed, ATTENTION) == accumulator_bytes(tiny_bert(), ATTENTION) == 4 * 10 * 32 * 32 * 4


# --- what is refused --------------------------------------------------------------------------------------------------


def test_a_kernel_without_gradient_is_refused_wherever_it_stands():
    data = text_batches(8, 8)
    with pytest.raises(ValueError, match="layer.1.attention.self.query .*InferenceOnly.* passes no gradient"):
        mean_gradients(replaced(tiny_bert(), InferenceOnly, lambda name: "query" in name), data, ATTENTION)
    with pytest.raises(ValueError, match="output.dense .*InferenceOnly.* passes no gradient"):  # not a target itself
        mean_gradients(replaced(tiny_bert(), InferenceOnly, lambda name: "output" in name), data, ATTENTION)
    first = replaced(tiny_bert(), InferenceOnly, lambda name: "layer.0.attention.self.query" in name)
    assert mean_gradients(first, data, ["query"])  # nothing before it needs a gradient


def test_layers_that_are_no_single_matrix_are_refused():
    class Fused(Packed4bit):
        def forward(self, x):
            return super().forward(x).repeat_interleave(2, dim=-1)[..., : x.shape[-1] + 8]

    class Holder(Packed4bit):
        def __init__(self, linear):
            super().__init__(linear)
            self.inner = nn.Linear(2, 2)

    class Masked(nn.Linear):
        """Float weights and a mask: an ordinary layer, with nothing packed."""

        def __init__(self, linear):
            super().__init__(linear.in_features, linear.out_features)
            self.register_buffer("mask", torch.ones(2, 2, dtype=torch.int32))

        def forward(self, x):
            return super().forward(x)

    with pytest.raises(ValueError, match="maps 32 features to 40, not in_features to out_features"):
        target = "bert.encoder.layer.1.attention.self.value"
        loss = lambda m, batch: m.get_submodule(target)(batch).square().mean()  # noqa: E731
        mean_gradients(replaced(tiny_bert(), Fused, lambda name: name == target), [torch.randn(8, 32)], [target], loss)
    assert not is_packed(Masked(nn.Linear(4, 4))) and not is_packed(Holder(nn.Linear(4, 4)))
    with pytest.raises(TypeError, match="Holder; accepted"):
        linear_targets(nn.Sequential(Holder(nn.Linear(4, 4))), ["0"])
    with pytest.raises(TypeError, match="Conv1D"):
        linear_targets(tiny_gpt2(), ["c_attn"])
    with pytest.raises(TypeError, match="MultiheadAttention"):
        linear_targets(nn.ModuleDict({"a": nn.MultiheadAttention(4, 2)}), ["out_proj"])


def test_adapters_on_packed_layers_are_refused():
    from peft import LoraConfig, get_peft_model

    adapted = get_peft_model(tiny_bert(), LoraConfig(target_modules=ATTENTION, r=2))
    with pytest.raises(TypeError, match="already carries an adapter"):
        linear_targets(adapted, ATTENTION)
    carrier = Packed4bit(nn.Linear(4, 4))
    carrier.base_layer = None
    with pytest.raises(TypeError, match="already carries an adapter"):
        linear_targets(nn.Sequential(carrier), ["0"])


def test_all_linear_takes_packed_layers_and_leaves_the_head():
    model = replaced(tiny_bert(), Packed4bit)
    model.classifier = Packed4bit(model.classifier)
    assert set(linear_targets(model, "all-linear")) == set(linear_targets(tiny_bert(), "all-linear"))
    with pytest.raises(ValueError, match="end in .*query"):
        linear_targets(model, ["nosuch"])
