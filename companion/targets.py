"""Which modules of a model are meant by `target_modules`, with PEFT's rules."""

import re
from collections.abc import Iterable

from torch import nn

__all__ = ["linear_targets"]


def linear_targets(model: nn.Module, target_modules: str | Iterable[str]) -> dict[str, nn.Linear]:
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
    dict of str to nn.Linear

    Raises
    ------
    ValueError
        Nothing matches.
    TypeError
        A match is not an `nn.Linear` with floating-point weights (Conv1D, quantised layers, containers).
    """
    modules = dict(model.named_modules())
    if isinstance(target_modules, str) and target_modules == "all-linear":
        heads = _output_heads(model)
        found = {n: m for n, m in modules.items() if type(m) is nn.Linear and m not in heads}
    else:
        matches = _matcher(target_modules)
        found = {name: module for name, module in modules.items() if name and matches(name)}
    if not found:
        names = sorted({name.rsplit(".", 1)[-1] for name, module in modules.items() if isinstance(module, nn.Linear)})
        raise ValueError(
            f"target_modules: {target_modules!r} matches no module of {type(model).__name__}; "
            f"its linear layers end in {', '.join(names) or '(none)'}"
        )
    for name, module in found.items():
        _check_linear(name, module)
    return found


def _matcher(target_modules: str | Iterable[str]):
    if isinstance(target_modules, str):
        try:
            pattern = re.compile(target_modules)
        except re.error as error:
            raise ValueError(f"target_modules: {target_modules!r} is not a regular expression ({error})") from None
        return pattern.fullmatch
    endings = list(target_modules)
    if not endings or not all(isinstance(ending, str) and ending for ending in endings):
        raise ValueError(f"target_modules: got {endings!r}; accepted: a regular expression or a non-empty list of names")
    return lambda name: any(name == ending or name.endswith(f".{ending}") for ending in endings)


def _output_heads(model: nn.Module) -> set[nn.Module]:
    """The layers PEFT leaves out of "all-linear": a language model's output embedding, a classifier's final layers."""
    heads = {model.get_output_embeddings()} if hasattr(model, "get_output_embeddings") else set()
    for name, child in model.named_children():
        if name in ("classifier", "score"):
            heads.update(child.modules())
    return heads - {None}


def _check_linear(name: str, module: nn.Module) -> None:
    kind = f"{type(module).__module__}.{type(module).__qualname__}"
    accepted = "accepted: torch.nn.Linear with floating-point weights"
    if type(module).__name__ == "Conv1D":
        raise TypeError(f"target_modules: {name} is a {kind} (weight stored in x out, often fused); {accepted}")
    if type(module).__name__ == "NonDynamicallyQuantizableLinear":
        raise TypeError(f"target_modules: {name} belongs to a MultiheadAttention, which uses its weight without calling it; {accepted}")
    if "quant" in kind.lower() or "bitsandbytes" in kind.lower():
        raise TypeError(f"target_modules: {name} is a quantised {kind}; {accepted}")
    if hasattr(module, "base_layer"):
        raise TypeError(f"target_modules: {name} already carries an adapter ({kind}); pass the model before get_peft_model")
    if not isinstance(module, nn.Linear):
        raise TypeError(f"target_modules: {name} is a {kind}; {accepted}")
    if not module.weight.is_floating_point() or module.weight.ndim != 2:
        raise TypeError(f"target_modules: {name} has {module.weight.dtype} weights (quantised?); {accepted}")
