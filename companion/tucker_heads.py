"""A projection of an attention layer as a tensor: how many heads it has, and on which side of the weight they lie."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import get_pattern_key
from torch import Tensor, nn

from companion.targets import has_plain_weight, is_packed, kind_of, refuse_other_kinds

HEADS_ON_OUTPUT = (
    "query", "key", "value", "q_proj", "k_proj", "v_proj", "q_lin", "k_lin", "v_lin", "query_proj", "key_proj",
    "value_proj", "q", "k", "v",
)  # fmt: skip
HEADS_ON_INPUT = (
    "attention.output.dense", "attention.dense", "self_attention.dense", "self_attn.dense", "o_proj", "out_lin", "o",
    "attn.out_proj", "self_attn.out_proj", "encoder_attn.out_proj", "cross_attn.out_proj", "attention.out_proj",
)  # fmt: skip
FUSED = re.compile(r"(.*\.)?(c_attn|w?qkv\w*|query_key_value|in_proj|w_?pack)", re.IGNORECASE)

NumHeads = str | int | Mapping[str, int]


@dataclass(frozen=True)
class HeadShape:
    """Dimensions of a weight as a 3-mode tensor; with `on_input` its columns are (heads, head_dim), else its rows."""

    heads: int
    head_dim: int
    d_model: int
    on_input: bool = False

    @property
    def modes(self) -> tuple[int, int, int]:
        return self.heads, self.head_dim, self.d_model

    def as_tensor(self, matrices: Tensor) -> Tensor:
        """(..., out, in) as (..., heads, head_dim, d_model)."""
        rows = matrices.mT if self.on_input else matrices
        return rows.reshape(*rows.shape[:-2], *self.modes)


def head_shape(model: nn.Module, name: str, num_heads: NumHeads = "auto") -> HeadShape:
    """Dimensions of the module `name` of `model`; TypeError or ValueError if it is not a projection with heads."""
    module = model.get_submodule(name)
    if isinstance(module, BaseTunerLayer):
        module = module.get_base_layer()
    _check_linear(model, name, module)
    given = _given(name, num_heads)
    on_input = _ends_in(name, HEADS_ON_INPUT)
    fused = FUSED.fullmatch(name) is not None
    if fused or not (on_input or _ends_in(name, HEADS_ON_OUTPUT) or (given and isinstance(num_heads, Mapping))):
        why = "is a fused projection" if fused else "is not a projection into or out of heads"
        raise ValueError(f"target_modules: {name} {why}; {_accepted(model)}")
    size, d_model = (module.in_features, module.out_features) if on_input else (module.out_features, module.in_features)
    heads = _from_config(model, name, size) if given is None else given
    if size % heads:
        side = "input" if on_input else "output"
        raise ValueError(f"num_heads: {name} has {size} {side} features, which is no multiple of {heads} heads")
    return HeadShape(heads, size // heads, d_model, on_input)


def attention_projections(model: nn.Module) -> dict[str, nn.Linear]:
    """Every linear layer with heads on its output or its input, by full name; ValueError if there is none."""
    known = HEADS_ON_OUTPUT + HEADS_ON_INPUT
    found = {n: module for n, module in model.named_modules() if type(module) is nn.Linear and _ends_in(n, known)}
    if not found:
        raise ValueError(f"model: {type(model).__name__} has no separate projections into or out of heads")
    for name in found:
        head_shape(model, name)
    return found


def check_ranks(name: str, ranks: tuple[int, int, int], shape: HeadShape) -> None:
    """ValueError if a rank is above its dimension."""
    for rank, size, mode in zip(ranks, shape.modes, ("heads", "head_dim", "d_model"), strict=True):
        if rank > size:
            raise ValueError(
                f"r: {name} is a tensor of {shape.modes} (heads, head_dim, d_model) and got the ranks {ranks}: "
                f"accepted along {mode}: 1 to {size}; rank_pattern gives this module ranks of its own"
            )


def _given(name: str, num_heads: NumHeads) -> int | None:
    """The number of heads that the user gave for a module; None: look it up."""
    if isinstance(num_heads, Mapping):
        return num_heads.get(get_pattern_key(num_heads.keys(), name))
    return None if num_heads == "auto" else num_heads


def _from_config(model: nn.Module, name: str, size: int) -> int:
    """Heads on a side of this size, from the configuration of the innermost module around it that has their number."""
    parts, config = name.split("."), None
    for depth in range(len(parts)):
        found = getattr(model.get_submodule(".".join(parts[:depth])), "config", None)
        config = found if isinstance(getattr(found, "num_attention_heads", None), int) else config
    if config is None:
        raise ValueError(f"num_heads: no configuration tells the heads of {name}; give it, or a dict of names")
    heads = config.num_attention_heads
    groups = getattr(config, "num_key_value_heads", None) or heads
    hidden = getattr(config, "hidden_size", size)
    head_dim = getattr(config, "head_dim", None) or getattr(config, "d_kv", None) or hidden // heads
    if size == (heads + 2 * groups) * head_dim:
        raise ValueError(f"target_modules: {name} is a fused projection of query, key and value; {_accepted(model)}")
    if size not in (heads * head_dim, groups * head_dim):
        raise ValueError(
            f"num_heads: {name} has {size} features on the side of the heads, but the configuration tells of {heads} "
            f"heads ({groups} for keys and values) of {head_dim}; give the number by name in a dict"
        )
    return size // head_dim


def _check_linear(model: nn.Module, name: str, module: nn.Module) -> None:
    """TypeError if a module is not a linear layer with a weight of ordinary floats."""
    refuse_other_kinds(name, module, _accepted(model))
    if isinstance(module, nn.Linear) and has_plain_weight(module):
        return
    if is_packed(module) or isinstance(module, nn.Linear):
        weight = getattr(module, "weight", None)
        stored = f"{type(weight).__name__} of {weight.dtype}" if isinstance(weight, Tensor) else "codes"
        raise TypeError(
            f"target_modules: {name} is quantised or keeps its weight in another form ({kind_of(module)}, {stored}), and Tucker-LoRA "
            "merges into ordinary floats only; load the base in 16 or 32 bits, or train plain LoRA"
        )
    raise TypeError(f"target_modules: {name} is a {kind_of(module)}; {_accepted(model)}")


def _ends_in(name: str, endings: tuple[str, ...]) -> bool:
    return any(name == ending or name.endswith(f".{ending}") for ending in endings)


def _accepted(model: nn.Module) -> str:
    """The end of an error message: what could be named in this model."""
    known = HEADS_ON_OUTPUT + HEADS_ON_INPUT
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    found = [ending for ending in known if any(_ends_in(name, (ending,)) for name in linear)]
    return "accepted in this model: " + (", ".join(found) or "none: its attention has no separate linear projections")
