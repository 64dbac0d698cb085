"""Weights packed by bitsandbytes and torchao: the spectra are those of a float model with the same weights."""

import copy

import bitsandbytes as bnb
import pytest
import torch
from torchao import quantization as torchao

from companion.gradients import gradient_spectra
from companion.targets import is_packed, linear_targets
from test_quantised import ATTENTION, assert_spectra_agree, float_twin, replaced
from tiny_models import causal_batches, text_batches, tiny_bert, tiny_llama


def bnb_layer(linear, kind):
    if kind == "int8":
        layer = bnb.nn.Linear8bitLt(linear.in_features, linear.out_features, has_fp16_weights=False)
    else:
        layer = bnb.nn.Linear4bit(linear.in_features, linear.out_features, quant_type=kind)
    layer.load_state_dict({"weight": linear.weight.detach(), "bias": linear.bias.detach()})
    return layer.to("cpu")  # quantises


def bnb_weight(layer):
    if isinstance(layer, bnb.nn.Linear4bit):
        return bnb.functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state)
    return layer.weight.data.float() * layer.state_dict()["SCB"][:, None] / 127


@pytest.mark.parametrize("kind", ["nf4", "fp4", "int8"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_bitsandbytes(kind, dtype):
    packed = replaced(tiny_bert(), lambda linear: bnb_layer(linear, kind))
    twin = float_twin(tiny_bert(), packed, lambda layer: bnb_weight(layer))
    for name, parameter in packed.named_parameters():  # what transformers casts on loading with this type
        if parameter.is_floating_point():
            parameter.data = parameter.data.to(dtype)
    data = text_batches(16, [7, 9])
    before = {name: value.clone() for name, value in packed.state_dict().items() if isinstance(value, torch.Tensor)}
    measured = gradient_spectra(packed, data, "all-linear")
    after = packed.state_dict()
    assert all(torch.equal(after[name], value) and after[name].dtype == value.dtype for name, value in before.items())
    assert_spectra_agree(measured, gradient_spectra(twin, data, "all-linear"), 1e-5 if dtype == torch.float32 else 0.1)


def test_model_loaded_in_four_bits(tmp_path):
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    tiny_llama().save_pretrained(tmp_path)
    config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16)
    load = {"quantization_config": config, "dtype": torch.bfloat16, "device_map": "cpu"}
    model = AutoModelForCausalLM.from_pretrained(tmp_path, **load)
    data = causal_batches(16, 8)
    twin = float_twin(tiny_llama(), model, lambda layer: bnb_weight(layer))
    measured = gradient_spectra(model, data, ["q_proj", "v_proj"])
    assert all(is_packed(model.get_submodule(name)) for name in measured)
    assert_spectra_agree(measured, gradient_spectra(twin, data, ["q_proj", "v_proj"]), 0.1)


def test_torchao():
    model, data = tiny_bert(), text_batches(16, [7, 9])
    packed = copy.deepcopy(model)
    torchao.quantize_(packed, torchao.Int8WeightOnlyConfig())
    for name in linear_targets(model, "all-linear"):
        model.get_submodule(name).weight.data = packed.get_submodule(name).weight.dequantize()
    model.classifier.weight.data = packed.classifier.weight.dequantize()
    assert_spectra_agree(gradient_spectra(packed, data, ATTENTION), gradient_spectra(model, data, ATTENTION))
