"""Which modules of a Tucker-LoRA model share factors, and which keys of its state dict are then the same tensor."""

import re
from collections.abc import Iterable

from torch import nn

from companion.tucker_heads import HeadShape, NumHeads, head_shape
from companion.tucker_layer import FACTORS, TuckerLinear


def scope(share: str, name: str) -> str:
    """Modules with the same scope share factors of the same size."""
    if share == "none":
        return name
    if share == "layers":
        return re.sub(r"\.\d+(?=\.)", ".*", f".{name}")
    parts = name.split(".")
    numbers = [place for place, part in enumerate(parts) if part.isdigit()]
    for place in range(numbers[-1] + 1 if numbers else 0, len(parts)):
        if "att" in parts[place].lower():
            return ".".join(parts[: place + 1])
    return name.rpartition(".")[0]


def factor_key(share: str, name: str, mode: int, shape: HeadShape) -> tuple:
    """Modes of modules with the same key, and of the same rank, have the same factor."""
    side = shape.on_input and mode == 2  # what an output projection writes is not what the others read
    return scope(share, name), mode, side, shape.modes[mode]


def factor_sizes(
    model: nn.Module, names: Iterable[str], share: str = "none", num_heads: NumHeads = "auto"
) -> tuple[int, int, int]:
    """Parameters of one rank along each mode: the rows of all factors of these modules together, shared ones once."""
    distinct = {factor_key(share, n, mode, shape) for n in names for shape in [head_shape(model, n, num_heads)] for mode in range(3)}
    rows = [0, 0, 0]
    for _, mode, _, size in distinct:
        rows[mode] += size
    return tuple(rows)


def copies_of_shared(model: nn.Module, adapter: str) -> dict[str, str]:
    """State dict keys of shared factors after the first, with the key of the first."""
    first, copies = {}, {}
    for name, module in model.named_modules():
        if isinstance(module, TuckerLinear) and adapter in module.r:
            for factor in FACTORS:
                key = f"{name}.{factor}.{adapter}.weight"
                before = first.setdefault(id(getattr(module, factor)[adapter]), key)
                if before != key:
                    copies[key] = before
    return copies
