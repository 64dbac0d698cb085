"""Which modules of a model are meant by `target_modules`, with PEFT's rules."""

import re
from collections.abc import Iterable

import torch
from torch import nn

__all__ = ["is_packed", "linear_targets", "packed_modules"]

_PLAIN = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_ACCEPTED = "accepted: torch.nn.Linear, or a layer with packed weights, in_features and out_features"


def linear_targets(model: nn.Module, target_modules: str | Iterable[str]) -> dict[str, nn.Module]:
    """Linear layers of `model` that `target_modules` names, by full name, in the model's order.

    Parameters
    ----------
    model : nn.Module
        The base model, before `peft.get_peft_model`.
    target_modules : str or iterable of str
        A string is a regular expression for the whole name, or ``"all-linear"`` for every linear layer but the output
        head; an iterable holds names or name endings, as in `peft.LoraConfig`.

    Returns
    -------
    dict of str to nn.Module
        `nn.Linear` with floating-point weights, or a quantised layer that `is_packed` describes.

    Raises
    ------
    ValueError
        Nothing matches.
    TypeError
        A match is no such layer: a Conv1D, the inside of a MultiheadAttention, a container, a layer with an adapter.

    Examples
    --------
    >>> model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    >>> list(linear_targets(model, "all-linear")), list(linear_targets(model, ["2"]))
    (['0', '2'], ['2'])
    """
    modules = dict(model.named_modules())
    if isinstance(target_modules, str) and target_modules == "all-linear":
        heads = _output_heads(model)
        found = {n: m for n, m in modules.items() if (type(m) is nn.Linear or is_packed(m)) and m not in heads}
    else:
        matches = _matcher(target_modules)
        found = {name: module for name, module in modules.items() if name and matches(name)}
    if not found:
        linear = [name for name, module in modules.items() if isinstance(module, nn.Linear) or is_packed(module)]
        names = sorted({name.rsplit(".", 1)[-1] for name in linear})
        raise ValueError(
            f"target_modules: {target_modules!r} matches no module of {type(model).__name__}; "
            f"its linear layers end in {', '.join(names) or '(none)'}"
        )
    for name, module in found.items():
        _check_linear(name, module)
    return found


def is_packed(module: nn.Module) -> bool:
    """Whether a module is one linear layer whose weights are stored packed: 4 or 8 bits, as codes or as 8-bit floats.

    It has integer attributes `in_features` and `out_features` and no modules inside, keeps codes instead of a weight of
    ordinary floats, and has a forward pass of its own: bitsandbytes' Linear4bit and Linear8bitLt, the layers of
    GPTQModel and others of this form. (torchao keeps `nn.Linear` and packs the tensor in it: that counts as an ordinary
    layer.)

    Parameters
    ----------
    module : nn.Module

    Returns
    -------
    bool

    Examples
    --------
    >>> is_packed(nn.Linear(4, 6))
    False
    """
    features = [getattr(module, name, None) for name in ("in_features", "out_features")]
    if not all(isinstance(number, int) and number > 0 for number in features) or hasattr(module, "base_layer"):
        return False
    if next(module.children(), None) is not None or type(module).forward is nn.Linear.forward:
        return False
    weight = module._parameters.get("weight")
    if weight is not None and weight.dtype in _PLAIN and weight.shape == (module.out_features, module.in_features):
        return False
    stored = [*module.parameters(), *module.buffers()]
    return any(tensor.numel() > 1 and tensor.dtype not in (*_PLAIN, torch.bool) for tensor in stored)


def packed_modules(model: nn.Module) -> dict[str, nn.Module]:
    """All modules of a model that `is_packed` describes.

    Parameters
    ----------
    model : nn.Module

    Returns
    -------
    dict of str to nn.Module
        By full name.

    Examples
    --------
    >>> packed_modules(nn.Sequential(nn.Linear(4, 6)))
    {}
    """
    return {name: module for name, module in model.named_modules() if is_packed(module)}


def _matcher(target_modules: str | Iterable[str]):
    if isinstance(target_modules, str):
        try:
            pattern = re.compile(target_modules)
        except re.error as error:
            raise ValueError(f"target_modules: {target_modules!r} is not a regular expression ({error})") from None
        return pattern.fullmatch
    endings = list(target_modules) if isinstance(target_modules, Iterable) else [target_modules]
    if not endings or not all(isinstance(ending, str) and ending for ending in endings):
        accepted = "accepted: a regular expression or a non-empty list of names"
        raise ValueError(f"target_modules: got {endings!r}; {accepted}")
    return lambda name: any(name == ending or name.endswith(f".{ending}") for ending in endings)


def _output_heads(model: nn.Module) -> set[nn.Module]:
    """The layers PEFT leaves out of "all-linear": a language model's output embedding, a classifier's final layers."""
    heads = {model.get_output_embeddings()} if hasattr(model, "get_output_embeddings") else set()
    for name, child in model.named_children():
        if name in ("classifier", "score"):
            heads.update(child.modules())
    return heads - {None}


def kind_of(module: nn.Module) -> str:
    """Full name of a module's class; a class of torch's own quantised layers is called so."""
    kind = f"{type(module).__module__}.{type(module).__qualname__}"
    return f"quantised {kind}" if ".quantized." in kind else kind


def refuse_other_kinds(name: str, module: nn.Module, accepted: str) -> None:
    """TypeError for a layer that looks like a linear one and is none; the message ends with what is accepted."""
    if type(module).__name__ == "Conv1D":
        raise TypeError(f"target_modules: {name} is a {kind_of(module)} (weight stored in x out, often fused); {accepted}")
    if type(module).__name__ == "NonDynamicallyQuantizableLinear":
        why = "belongs to a MultiheadAttention, which uses its weight without calling it"
        raise TypeError(f"target_modules: {name} {why}; {accepted}")


def has_plain_weight(module: nn.Module) -> bool:
    """Whether the weight is a parameter of ordinary floats: no codes, no 8-bit floats, no subclass of a tensor."""
    weight = module._parameters.get("weight")
    return type(weight) is nn.Parameter and weight.dtype in _PLAIN


def _check_linear(name: str, module: nn.Module) -> None:
    refuse_other_kinds(name, module, _ACCEPTED)
    if hasattr(module, "base_layer"):
        raise TypeError(
            f"target_modules: {name} already carries an adapter ({kind_of(module)}); pass the model before get_peft_model"
        )
    if is_packed(module):
        return
    if not isinstance(module, nn.Linear):
        raise TypeError(f"target_modules: {name} is a {kind_of(module)}; {_ACCEPTED}")
    if module.weight.dtype not in _PLAIN or module.weight.ndim != 2:
        why = f"has {module.weight.dtype} weights but the forward pass of nn.Linear"
        raise TypeError(f"target_modules: {name} {why}; {_ACCEPTED}")
