"""The Tucker-LoRA layer: a linear layer whose update is a 3-mode tensor with a small core."""

import warnings
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer, check_adapters_to_merge
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from companion.tucker_heads import HeadShape

FACTORS = ("tucker_U1", "tucker_U2", "tucker_U3", "tucker_core")


class Factor(nn.Module):
    """One factor matrix, or the core; a module, so that several layers can hold the same one."""

    def __init__(self, *shape: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(*shape, dtype=torch.float32))  # for QR; cast to the base's later


class TuckerLinear(nn.Module, BaseTunerLayer):
    """A linear layer with updates ``Delta W = s (U1 (x) U2) G_(12,3) U3'`` (P2 eq. 8), or its transpose.

    U1 (heads, r1), U2 (head_dim, r2), U3 (d_model, r3) and the core G (r1, r2, r3), for each adapter. The forward pass
    contracts the core with the side of fewer columns, so it costs as much as LoRA of rank min(r1 r2, r3), and no matrix
    of the size of W is made.
    """

    adapter_layer_names = FACTORS
    other_param_names = ("r", "scaling", "head_shape", "tucker_dropout")

    def __init__(self, base_layer: nn.Module, adapter_name: str):
        super().__init__()
        self.base_layer = base_layer
        self.in_features, self.out_features = base_layer.in_features, base_layer.out_features
        self.r: dict[str, tuple[int, int, int]] = {}
        self.scaling: dict[str, float] = {}
        self.head_shape: dict[str, HeadShape] = {}
        self.tucker_U1, self.tucker_U2, self.tucker_U3 = nn.ModuleDict(), nn.ModuleDict(), nn.ModuleDict()
        self.tucker_core, self.tucker_dropout = nn.ModuleDict(), nn.ModuleDict()
        self._active_adapter = adapter_name
        self._disable_adapters = False
        self.merged_adapters = []

    def update_layer(
        self,
        adapter_name: str,
        ranks: tuple[int, int, int],
        shape: HeadShape,
        config: Any,
        factors: tuple[Factor, Factor, Factor],
    ) -> None:
        """Add an adapter with these factors and a core of its own."""
        self.r[adapter_name], self.head_shape[adapter_name] = ranks, shape
        self.scaling[adapter_name] = float(config.alpha)
        self.tucker_dropout[adapter_name] = nn.Dropout(config.dropout) if config.dropout else nn.Identity()
        for store, factor in zip((self.tucker_U1, self.tucker_U2, self.tucker_U3), factors, strict=True):
            store[adapter_name] = factor
        self.tucker_core[adapter_name] = Factor(*ranks)
        if config.init_weights:
            nn.init.zeros_(self.tucker_core[adapter_name].weight)
        else:
            nn.init.normal_(self.tucker_core[adapter_name].weight)
        self._move_adapter_to_device_of_base_layer(adapter_name)
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    def lora_factors(self, adapter: str) -> tuple[Tensor, Tensor]:
        """B (out, k) and A (k, in) with ``Delta W = B A``, scaling included, k = min(r1 r2, r3)."""
        u1, u2, u3 = (getattr(self, name)[adapter].weight for name in FACTORS[:3])
        core = self.scaling[adapter] * self.tucker_core[adapter].weight
        (heads, r1), (head_dim, r2), r3 = u1.shape, u2.shape, u3.shape[1]
        if r3 <= r1 * r2:
            left = (u1 @ core.view(r1, r2 * r3)).view(heads, r2, r3)
            left, right = (u2 @ left).view(heads * head_dim, r3), u3  # (heads, head_dim, r3), (d_model, r3)
        else:
            left = torch.kron(u1, u2)  # (heads head_dim, r1 r2)
            right = u3 @ core.view(r1 * r2, r3).T  # (d_model, r1 r2)
        return (right, left.T) if self.head_shape[adapter].on_input else (left, right.T)

    def get_delta_weight(self, adapter: str) -> Tensor:
        """The update of the weight, (out, in)."""
        left, right = self.lora_factors(adapter)
        return left @ right

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if self.disable_adapters and self.merged:
            self.unmerge()
        result = self.base_layer(x, *args, **kwargs)
        if self.disable_adapters or self.merged:
            return result
        dtype = result.dtype
        for adapter in self.active_adapters:
            if adapter in self.tucker_core:
                left, right = self.lora_factors(adapter)  # B, A
                z = self.tucker_dropout[adapter](self._cast_input_dtype(x, right.dtype))
                result = result + F.linear(F.linear(z, right), left)
        return result.to(dtype)

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Add the updates of the named (default: the active) adapters to the weight."""
        for adapter in check_adapters_to_merge(self, adapter_names):
            if adapter not in self.tucker_core:
                continue
            merged = self._weight_plus(self.get_delta_weight(adapter))
            if safe_merge and not torch.isfinite(merged).all():
                raise ValueError(f"merging adapter {adapter!r} gives a weight with NaN or infinity")
            self.get_base_layer().weight.data = merged
            self.merged_adapters.append(adapter)

    def unmerge(self) -> None:
        """Subtract the merged updates again."""
        if not self.merged:
            warnings.warn("Already unmerged. Nothing to do.", stacklevel=2)
        while self.merged_adapters:
            adapter = self.merged_adapters.pop()
            if adapter in self.tucker_core:
                self.get_base_layer().weight.data = self._weight_plus(-self.get_delta_weight(adapter))

    def _weight_plus(self, delta: Tensor) -> Tensor:
        weight = self.get_base_layer().weight.data
        return (weight + delta.detach().to(weight.device)).to(weight.dtype)

    def supports_lora_conversion(self, adapter_name: str = "default") -> bool:
        return True

    def __repr__(self) -> str:
        return "tucker." + super().__repr__()
