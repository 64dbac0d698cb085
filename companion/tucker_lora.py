"""Tucker-LoRA (P2 section 5) as a method of PEFT: a core and three factors for every projection with heads.

For a projection of an attention layer, seen as a tensor (heads, head_dim, d_model), the update is
``Delta W = alpha (U1 (x) U2) G_(12,3) U3'`` (P2 eq. 8) with U1 (heads x r1), U2 (head_dim x r2), U3 (d_model x r3) and
the core G (r1, r2, r3); for an output projection, whose heads are on its input, the transpose of this. The core is zero
and the factors have orthonormal columns at the start: with all of them small, as in P2 theorem 5.1, training does not
start in any useful time. Importing this module makes the method known to PEFT: `peft.get_peft_model`, `save_pretrained`
and `PeftModel.from_pretrained` then work as for LoRA.
"""

from dataclasses import dataclass, field

from peft import PeftConfig, PeftModel, PeftType
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_PREFIX_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING, register_peft_method
from peft.utils.other import get_pattern_key
from torch import Tensor, nn

from companion.tucker_heads import HeadShape, NumHeads, check_ranks, head_shape
from companion.tucker_layer import FACTORS, Factor, TuckerLinear
from companion.tucker_sharing import copies_of_shared, factor_key

__all__ = ["TuckerLoraConfig", "TuckerLoraModel", "register_tucker_lora", "tucker_parameters"]

NAME = "tuckerlora"
SHARE = ("none", "qkv", "layers")


@dataclass
class TuckerLoraConfig(PeftConfig):
    """What to adapt, with which ranks.

    Parameters
    ----------
    r : (int, int, int)
        Ranks along heads, head_dim and d_model.
    alpha : float
        The factor itself on every update, whatever the ranks: nothing is divided by a rank. P2 has 1. The core has few
        entries, and AdamW moves each by the learning rate: with 4, updates are half (ranks 2, 2, 2) to twice (8, 15,
        11) as large as those of LoRA with about as many parameters and ``alpha / r = 2``.
    target_modules : str or list of str, optional
        As in `peft.LoraConfig`; projections with heads only. None: PEFT's default for LoRA.
    exclude_modules : str or list of str, optional
        Left out again.
    rank_pattern : dict of str to (int, int, int)
        Ranks of single modules: keys are regular expressions for the end of the name, as in PEFT.
    num_heads : "auto", int or dict of str to int
        ``"auto"`` reads the numbers of heads, and of groups of keys and values, from the model's configuration. A
        number holds for every module. A dict has numbers by name, with keys as in `rank_pattern`, and "auto" for the
        others; a linear layer that is named here is taken even if nothing else tells of heads on its output.
    share : {"none", "qkv", "layers"}
        What shares factors; every matrix keeps a core of its own. ``"qkv"``: the projections of one attention block;
        its output projection shares those of heads and head_dim only. ``"layers"``: projections of the same kind in
        all layers. Factors of different sizes are never shared, nor are those of layers on other devices or of another
        precision. Needs peft 0.21; with 0.20 only ``"none"``.
    dropout : float
        Dropout on the input of the update.
    init_weights : bool
        False: a random core, so that the update is not zero (for tests).
    modules_to_save : list of str, optional
        Trained and saved in full; for classification PEFT adds the head.
    layers_to_transform : int or list of int, optional
        Only these layers.
    layers_pattern : str or list of str, optional
        Name of the list of layers, if PEFT does not find it.
    task_type, peft_type, auto_mapping, peft_version, base_model_name_or_path, revision, inference_mode
        Set by PEFT.

    Raises
    ------
    ValueError
        Ranks that are not three integers >= 1, alpha not positive, or an unknown `share`, number of heads or dropout.
        The model itself is looked at by `peft.get_peft_model`: see `TuckerLoraModel`.

    Examples
    --------
    >>> config = TuckerLoraConfig(r=(4, 2, 2), target_modules=["query", "value"], rank_pattern={"query": (2, 2, 4)})
    >>> config.r, config.peft_type.value
    ((4, 2, 2), 'TUCKERLORA')
    """

    r: tuple[int, int, int] = (4, 2, 2)
    alpha: float = 4.0
    target_modules: list[str] | str | None = None
    exclude_modules: list[str] | str | None = None
    rank_pattern: dict[str, tuple[int, int, int]] = field(default_factory=dict)
    num_heads: NumHeads = "auto"
    share: str = "none"
    dropout: float = 0.0
    init_weights: bool = True
    modules_to_save: list[str] | None = None
    layers_to_transform: list[int] | int | None = None
    layers_pattern: list[str] | str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = PeftType.TUCKERLORA
        for name in ("target_modules", "exclude_modules"):
            value = getattr(self, name)
            setattr(self, name, set(value) if isinstance(value, list | tuple) else value)
        self.r = _ranks("r", self.r)
        self.rank_pattern = {key: _ranks(f"rank_pattern[{key!r}]", r) for key, r in (self.rank_pattern or {}).items()}
        if not 0 < self.alpha < float("inf"):  # NaN too
            raise ValueError(f"alpha: got {self.alpha!r}; accepted: a finite number > 0")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout: got {self.dropout!r}; accepted: a number >= 0 and < 1")
        if self.share not in SHARE:
            raise ValueError(f"share: got {self.share!r}; accepted: {', '.join(map(repr, SHARE))}")
        if self.num_heads != "auto":
            numbers = self.num_heads.values() if isinstance(self.num_heads, dict) else [self.num_heads]
            if not all(_is_count(n) for n in numbers):
                accepted = 'accepted: "auto", an integer >= 1, or a dict of them by name'
                raise ValueError(f"num_heads: got {self.num_heads!r}; {accepted}")
            if isinstance(self.num_heads, dict):
                self.num_heads = {name: int(n) for name, n in self.num_heads.items()}
            else:
                self.num_heads = int(self.num_heads)
        self.alpha, self.dropout = float(self.alpha), float(self.dropout)  # numpy's numbers could not be saved
        if isinstance(self.target_modules, str) and self.layers_to_transform is not None:
            raise ValueError("layers_to_transform: not accepted with a regular expression in target_modules")
        if self.layers_pattern and self.layers_to_transform is None:
            raise ValueError("layers_pattern: accepted only with layers_to_transform")


class TuckerLoraModel(BaseTuner):
    """The model that `peft.get_peft_model` makes of a base and a `TuckerLoraConfig`; PEFT's own methods are all there.

    Parameters
    ----------
    model, peft_config, adapter_name, low_cpu_mem_usage, state_dict
        As PEFT passes them.

    Raises
    ------
    TypeError
        A target that is quantised, a Conv1D, inside a MultiheadAttention or no linear layer.
    ValueError
        A target without heads (an MLP, a fused projection), features that are no multiple of the heads, ranks above the
        dimensions, no target at all, or a saved adapter that was made for other heads or ranks. A target that is
        refused leaves the model as it was.

    Examples
    --------
    With `model` from `companion.data`::

        model = peft.get_peft_model(model, TuckerLoraConfig(task_type="SEQ_CLS", target_modules=["query", "value"]))
        model.print_trainable_parameters()
    """

    prefix = "tucker_"
    tuner_layer_cls = TuckerLinear
    target_module_mapping = TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING

    def inject_adapter(self, *args, **kwargs) -> None:
        """As PEFT has it; what the modules of this adapter share is forgotten at the end, whatever happens.

        Parameters
        ----------
        args, kwargs
            As for `peft.tuners.tuners_utils.BaseTuner.inject_adapter`.

        Raises
        ------
        ValueError
            What PEFT raises, and modules that cannot be adapted.
        """
        self._shared: dict[tuple, Factor] = {}
        try:
            super().inject_adapter(*args, **kwargs)
        finally:
            self._shared = {}

    def _prepare_model(self, peft_config: TuckerLoraConfig, model: nn.Module) -> None:
        """Look at every target before the first one is replaced."""
        if peft_config.target_modules == "all-linear":
            raise ValueError(
                'target_modules: "all-linear" takes in layers without heads; name the projections of the attention'
            )
        if peft_config.share != "none" and not hasattr(BaseTuner, "_get_adapter_state_dict"):
            raise ValueError(f"share: {peft_config.share!r} needs peft 0.21 or newer; accepted with this version: 'none'")
        adapted = [f"{name}." for name, module in model.named_modules() if isinstance(module, BaseTunerLayer)]
        for name, module in model.named_modules():
            inside = any(name.startswith(prefix) for prefix in adapted)
            if name and not inside and self._check_target_module_exists(peft_config, name):
                if isinstance(module, BaseTunerLayer) and not isinstance(module, TuckerLinear):
                    raise ValueError(f"target_modules: {name} already carries an adapter of another kind")
                _ranks_and_shape(peft_config, model, name)

    def _create_and_replace(self, peft_config, adapter_name, target, target_name, parent, current_key, **kwargs):
        ranks, shape = _ranks_and_shape(peft_config, self.model, current_key)
        layer = target if isinstance(target, TuckerLinear) else TuckerLinear(target, adapter_name)
        factors = self._factors(peft_config.share, current_key, ranks, shape, layer.get_base_layer().weight)
        layer.update_layer(adapter_name, ranks, shape, peft_config, factors)
        if layer is not target:
            self._replace_module(parent, target_name, layer, target)

    def _factors(
        self, share: str, name: str, ranks: tuple[int, int, int], shape: HeadShape, weight: Tensor
    ) -> tuple[Factor, ...]:
        """U1, U2, U3 with orthonormal columns from torch's global generator; shared ones are made once."""
        factors = []
        for mode, (size, rank) in enumerate(zip(shape.modes, ranks, strict=True)):
            key = (*factor_key(share, name, mode, shape), rank, weight.device, weight.dtype)
            if key not in self._shared:
                self._shared[key] = Factor(size, rank)
                nn.init.orthogonal_(self._shared[key].weight)
            factors.append(self._shared[key])
        return tuple(factors)

    @classmethod
    def _get_adapter_state_dict(cls, model, config, adapter_name, state_dict, unwanted_adapter_names):
        """Shared factors once."""
        found = super()._get_adapter_state_dict(model, config, adapter_name, state_dict, unwanted_adapter_names)
        for copy in copies_of_shared(model, adapter_name):
            found.pop(copy, None)
        return found

    @classmethod
    def _remap_adapter_state_dict_for_load(cls, model, config, adapter_name, state_dict):
        found = super()._remap_adapter_state_dict_for_load(model, config, adapter_name, state_dict)
        found |= {copy: found[first] for copy, first in copies_of_shared(model, adapter_name).items() if first in found}
        for key, present in model.state_dict().items():
            if key in found and "tucker_" in key and found[key].shape != present.shape:
                raise ValueError(
                    f"the saved adapter does not fit this model: {key} was saved with the shape "
                    f"{tuple(found[key].shape)}; with num_heads={config.num_heads!r} it needs {tuple(present.shape)}"
                )
        return found


def tucker_parameters(model: PeftModel, adapter: str = "default") -> dict[str, int]:
    """Number of parameters of a Tucker-LoRA adapter, trained heads not counted.

    Parameters
    ----------
    model : peft.PeftModel
    adapter : str
        Its name.

    Returns
    -------
    dict of str to int
        ``U1``, ``U2``, ``U3`` and ``core``; ``total``, with shared factors counted once; ``unshared``, what it would be
        without sharing. P2 theorem 5.3: ``r1 r2 r3 + r1 heads + r2 head_dim + r3 d_model`` for each matrix.

    Raises
    ------
    ValueError
        No module has such an adapter.

    Examples
    --------
    With `model` from `peft.get_peft_model`::

        tucker_parameters(model)["total"]
    """
    layers = [module for module in model.modules() if isinstance(module, TuckerLinear) and adapter in module.r]
    if not layers:
        raise ValueError(f"adapter: no module has a Tucker-LoRA adapter {adapter!r}")
    counts = {}
    for name in FACTORS:
        single = {id(getattr(layer, name)[adapter]): getattr(layer, name)[adapter].weight.numel() for layer in layers}
        counts[name.removeprefix("tucker_")] = sum(single.values())
    total = sum(counts.values())
    unshared = sum(getattr(layer, name)[adapter].weight.numel() for layer in layers for name in FACTORS)
    return counts | {"total": total, "unshared": unshared}


def register_tucker_lora() -> None:
    """Make the method known to PEFT under the type ``TUCKERLORA``; done once when this module is imported.

    PEFT keeps its methods in an `Enum`, and `peft.utils.register_peft_method` takes only names that are in it. So a
    member is added first, the way `enum` itself makes one. A saved adapter cannot be loaded where this has not run
    (``KeyError: 'TUCKERLORA'``): import this module first, or save plain LoRA with `companion.tucker_export.to_lora`.

    Raises
    ------
    ValueError
        Another package has registered a method under this name.

    Examples
    --------
    >>> register_tucker_lora()  # again: nothing happens
    >>> PeftType("TUCKERLORA").name
    'TUCKERLORA'
    """
    value = NAME.upper()
    if value not in PeftType.__members__:
        member = str.__new__(PeftType, value)
        member._name_, member._value_ = value, value
        setattr(PeftType, value, member)  # before the maps: Enum refuses to set what is already a member
        PeftType._member_names_.append(value)
        PeftType._member_map_[value] = PeftType._value2member_map_[value] = member
    kind = PeftType(value)
    present = PEFT_TYPE_TO_CONFIG_MAPPING.get(kind)
    if present is TuckerLoraConfig:
        return
    if present is not None:
        if present.__module__ != __name__:
            raise ValueError(f"{present.__module__} has already registered a PEFT method {value!r}")
        for mapping in (PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING, PEFT_TYPE_TO_PREFIX_MAPPING):
            del mapping[kind]  # this module has been reloaded
    prefix = TuckerLoraModel.prefix
    register_peft_method(name=NAME, config_cls=TuckerLoraConfig, model_cls=TuckerLoraModel, prefix=prefix)


def _ranks_and_shape(config: TuckerLoraConfig, model: nn.Module, name: str) -> tuple[tuple[int, int, int], HeadShape]:
    """Of one target module, or what is wrong with it."""
    ranks = config.rank_pattern.get(get_pattern_key(config.rank_pattern.keys(), name), config.r)
    shape = head_shape(model, name, config.num_heads)
    check_ranks(name, ranks, shape)
    return ranks, shape


def _ranks(name: str, ranks) -> tuple[int, int, int]:
    if not isinstance(ranks, list | tuple) or len(ranks) != 3 or not all(_is_count(n) for n in ranks):
        raise ValueError(f"{name}: got {ranks!r}; accepted: three integers >= 1 (heads, head_dim, d_model)")
    return tuple(int(n) for n in ranks)


def _is_count(number) -> bool:
    return not isinstance(number, bool) and hasattr(number, "__index__") and number >= 1


register_tucker_lora()
