"""Cut a trained adapter: keep the leading singular directions of its updates, and save what is left as plain LoRA.

Train with more rank than needed, cut afterwards. The singular value decomposition of ``Delta W = s B A`` comes exactly
from two thin QR factorisations and one r x r decomposition, so no update is ever formed.
"""

import warnings
from collections.abc import Mapping
from numbers import Real

import numpy as np
import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from peft.tuners.lora import LoraLayer

from companion.allocation import allocate
from companion.spectral_lora import to_lora_config

__all__ = ["adapter_spectra", "truncate_adapter"]

CHANGE_THE_BASE = ("pissa", "olora", "corda", "lora_ga")  # initial values that PEFT subtracts from the weights


def adapter_spectra(model: PeftModel, adapter: str = "default") -> dict[str, np.ndarray]:
    """Singular values of the update of every adapted matrix.

    Parameters
    ----------
    model : peft.PeftModel
        With a LoRA adapter on linear layers.
    adapter : str
        Its name.

    Returns
    -------
    dict of str to ndarray, shape (r,)
        In decreasing order, by full module name, of ``Delta W = s B A`` with the scaling s; units of the weight.

    Raises
    ------
    TypeError
        `model` is no PEFT model.
    ValueError
        No such adapter, an adapter that is not plain LoRA on linear layers, or factors with NaN or infinity.

    Examples
    --------
    >>> from peft import LoraConfig, get_peft_model
    >>> from torch import nn
    >>> model = get_peft_model(nn.Sequential(nn.Linear(4, 4)), LoraConfig(r=2, target_modules=["0"]))
    >>> adapter_spectra(model)["0"].tolist()
    [0.0, 0.0]
    """
    return {name: values.numpy() for name, (_, values, _) in _decompose(model, adapter).items()}


def truncate_adapter(
    model: PeftModel, budget: int | None = None, threshold: float | None = None, adapter: str = "default"
) -> PeftModel:
    """Keep the largest singular directions of all updates together, as a plain LoRA adapter of the same base.

    Parameters
    ----------
    model : peft.PeftModel
        A trained model; it is used up: its base carries the new adapter, its own adapters are gone.
    budget : int, optional
        Adapter parameters to keep (``out + in`` for each direction, head not counted). The choice has the smallest total
        squared error of the updates of all that cost no more.
    threshold : float, optional
        Keep the singular values above this, in units of the weight; exactly one of `budget` and `threshold` is given.
    adapter : str
        Name of the adapter to cut, and of the new one.

    Returns
    -------
    peft.PeftModel
        Each matrix has its own rank and the scaling 1; a matrix without a kept direction has no adapter. Trained heads
        (`modules_to_save`), biases and token embeddings come along.

    Raises
    ------
    TypeError, ValueError
        As for `adapter_spectra`; neither or both of `budget` and `threshold`; nothing is left to keep; the adapter is
        merged into the weights.

    Warns
    -----
    UserWarning
        The adapter's initialisation (PiSSA and the like) has changed the base: on the pretrained weights, where a saved
        adapter is loaded, the cut one is another model.

    Examples
    --------
    >>> from peft import LoraConfig, get_peft_model
    >>> from torch import nn
    >>> config = LoraConfig(r=4, target_modules=["0"], init_lora_weights=False)
    >>> wide = get_peft_model(nn.Sequential(nn.Linear(6, 5, bias=False)), config)
    >>> truncate_adapter(wide, budget=2 * 11).base_model.model[0].r
    {'default': 2}
    """
    if (budget is None) == (threshold is None):
        raise ValueError(f"give budget or threshold, and not both; got budget={budget!r} and threshold={threshold!r}")
    found = _decompose(model, adapter)
    spectra = {name: values.numpy() for name, (_, values, _) in found.items()}
    if budget is not None:
        costs = {name: left.shape[0] + right.shape[1] for name, (left, _, right) in found.items()}
        ranks: Mapping[str, int] = allocate(spectra, costs, budget)
    else:
        if not isinstance(threshold, Real) or not np.isfinite(threshold) or threshold < 0:
            raise ValueError(f"threshold must be a finite number >= 0, got {threshold!r}")
        ranks = {name: int(np.sum(values > threshold)) for name, values in spectra.items()}
    if not any(ranks.values()):
        largest = max(values[0] for values in spectra.values())
        raise ValueError(
            f"nothing is left of the adapter with budget={budget!r} and threshold={threshold!r}; its largest singular "
            f"value is {largest:.4g}"
        )
    return _rebuilt(model, adapter, found, ranks)


def _rebuilt(model: PeftModel, adapter: str, found: Mapping[str, tuple], ranks: Mapping[str, int]) -> PeftModel:
    """The base model with an adapter of these ranks, and with the trained head of the old one."""
    old = model.peft_config[adapter]
    if str(old.init_lora_weights).startswith(CHANGE_THE_BASE):
        warnings.warn(
            f"adapter {adapter!r}: init_lora_weights={old.init_lora_weights!r} has changed the weights of the base; the "
            "cut adapter fits these and not the pretrained ones, so save the whole model (merge_and_unload)",
            stacklevel=3,
        )
    config = LoraConfig(
        task_type=old.task_type, lora_dropout=old.lora_dropout, modules_to_save=old.modules_to_save,
        fan_in_fan_out=old.fan_in_fan_out, base_model_name_or_path=old.base_model_name_or_path,
        bias="none" if old.bias == "none" else "all",  # of matrices that lose their adapter too
        trainable_token_indices=old.trainable_token_indices,
    )  # fmt: skip
    heads = {key: value.detach().clone() for key, value in _state(model, adapter).items() if ".lora_" not in key}
    training = model.training
    base = model.unload()
    if hasattr(base, "peft_config"):
        del base.peft_config
    every_module = dict.fromkeys((name for name, _ in base.named_modules() if name), 0)
    new = get_peft_model(base, to_lora_config(every_module | dict(ranks), config, 1.0), adapter_name=adapter)
    new.peft_config[adapter].layer_replication = old.layer_replication  # done already, and again when it is loaded
    set_peft_model_state_dict(new, heads, adapter_name=adapter)
    for name, module in _layers(new, adapter):
        left, values, right = found[name]
        rank, root = ranks[name], values[: ranks[name]].sqrt()
        for factor, value in (
            (module.lora_A[adapter].weight, root[:, None] * right[:rank]),
            (module.lora_B[adapter].weight, left[:, :rank] * root),
        ):
            factor.data.copy_(value)
    return new.train(training)


def _state(model: PeftModel, adapter: str) -> dict[str, torch.Tensor]:
    return get_peft_model_state_dict(model, adapter_name=adapter)


def _layers(model: PeftModel, adapter: str) -> list[tuple[str, LoraLayer]]:
    """Full names, as in the base model, and layers that carry the adapter."""
    base = model.get_base_model()
    return [(name, m) for name, m in base.named_modules() if isinstance(m, LoraLayer) and adapter in m.r]


def _decompose(model: PeftModel, adapter: str) -> dict[str, tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Left vectors (out, r), singular values (r,) and right vectors (r, in) of every update, in float64 on the CPU."""
    if not isinstance(model, PeftModel):
        raise TypeError(f"model must be a peft.PeftModel, got {type(model).__name__}")
    if adapter not in model.peft_config:
        raise ValueError(f"adapter: got {adapter!r}; the model has {', '.join(map(repr, model.peft_config))}")
    config = model.peft_config[adapter]
    if type(config) is not LoraConfig or config.use_dora or config.lora_bias:
        kind = "LoRA with DoRA or a bias" if type(config) is LoraConfig else type(config).__name__
        raise ValueError(f"adapter {adapter!r} must be plain LoRA, got {kind}")
    found = {}
    for name, layer in _layers(model, adapter):
        if adapter not in layer.lora_A or layer.lora_A[adapter].weight.ndim != 2:
            raise ValueError(f"{name} must be a linear layer, got {type(layer.get_base_layer()).__name__}")
        if adapter in getattr(layer, "lora_variant", {}):
            kind = type(layer.lora_variant[adapter]).__name__
            raise ValueError(f"adapter {adapter!r} must be plain LoRA, got {kind} in {name}")
        if layer.merged:
            raise ValueError(f"adapter {adapter!r} is merged into {name}: call unmerge_adapter() first")
        b, a = layer.lora_B[adapter].weight, layer.lora_A[adapter].weight
        if not (torch.isfinite(a).all() and torch.isfinite(b).all()):
            raise ValueError(f"the factors of {name} hold NaN or infinity")
        found[name] = _svd_of_product(b, a, layer.scaling[adapter])
    return found


def _svd_of_product(b: torch.Tensor, a: torch.Tensor, scaling: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Thin singular value decomposition of s B A from its factors, without forming the product."""
    q_b, r_b = torch.linalg.qr(b.detach().double().cpu())  # (out, k), (k, r)
    q_a, r_a = torch.linalg.qr(a.detach().double().cpu().T)  # (in, k), (k, r)
    u, s, vh = torch.linalg.svd(scaling * r_b @ r_a.T, full_matrices=False)
    return q_b @ u, s, vh @ q_a.T
