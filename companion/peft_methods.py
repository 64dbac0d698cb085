"""PEFT's own methods with the guards they need: EVA, AdaLoRA and LoRA-GA."""

import itertools
import re
import warnings
from collections.abc import Iterable, Mapping

from peft import AdaLoraConfig, EvaConfig, LoraConfig, LoraGAConfig, PeftModel, get_peft_model, initialize_lora_eva_weights
from peft.tuners.lora import LoraLayer
from peft.tuners.lora.eva import prepare_layer_inputs_fn_language_modeling
from peft.tuners.lora.loraga import preprocess_loraga
from torch import Tensor, nn
from transformers import TrainerCallback

from companion.batches import to_device

__all__ = ["AdaLoraCallback", "adalora", "adalora_ranks", "adapter_ranks", "eva", "lora_ga"]

MAX_FORWARDS = 200  # of EVA; on batches too small for its components it would go on for ever


def adapter_ranks(model: PeftModel, adapter: str = "default") -> dict[str, int]:
    """Rank of every adapted matrix, by full name in the base model."""
    base = model.get_base_model()
    return {name: m.r[adapter] for name, m in base.named_modules() if isinstance(m, LoraLayer) and m.r.get(adapter)}


def eva(model: nn.Module, config: LoraConfig, batches: Iterable[Mapping], rho: float = 2.0) -> PeftModel:
    """LoRA with ranks and initial values from the inputs of every matrix (Paischer et al., 2024).

    Parameters
    ----------
    model : PreTrainedModel
        Changed in place.
    config : LoraConfig
        Ranks before they are redistributed; its `init_lora_weights` is overwritten.
    batches : iterable of mappings
        Labels are dropped: EVA looks at inputs only. At least ``rho`` times the rank tokens in each.
    rho : float
        A matrix gets at most rho times its rank.

    Returns
    -------
    PeftModel

    Raises
    ------
    RuntimeError
        No convergence within 200 forward passes; PEFT's loop itself has no end when batches are too small.
    """
    config.init_lora_weights, config.eva_config = "eva", EvaConfig(rho=rho, use_label_mask=False, adjust_scaling_factors=True)
    adapted = get_peft_model(model, config)
    inputs = [{key: value for key, value in batch.items() if key != "labels"} for batch in batches]
    forwards = itertools.count(1)

    def forward(model: nn.Module, batch: Mapping) -> object:
        if next(forwards) > MAX_FORWARDS:
            raise RuntimeError(f"EVA did not converge in {MAX_FORWARDS} forward passes; use larger batches or a smaller rho")
        return model(**batch)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its SVD warns of every batch it sees twice
        initialize_lora_eva_weights(
            adapted, inputs, forward_fn=forward, prepare_layer_inputs_fn=_own_tokens, show_progress_bar=False
        )
    return adapted


def _own_tokens(layer_input: tuple | Tensor, tokens: Tensor, name: str) -> Tensor:
    """What EVA decomposes, (tokens, in): all but padding, or every row of a layer that sees one token of each example."""
    given = layer_input if isinstance(layer_input, Tensor) else layer_input[0]
    return given.contiguous() if given.ndim == 2 else prepare_layer_inputs_fn_language_modeling(given, tokens, name)


def lora_ga(model: nn.Module, config: LoraConfig, batches: Iterable[Mapping]) -> PeftModel:
    """LoRA initialised from the singular vectors of the gradient (Wang et al., 2024, LoRA-GA), ranks as in `config`.

    Parameters
    ----------
    model : PreTrainedModel
        Changed in place: the initial update is subtracted from its weights.
    config : LoraConfig
        Its `init_lora_weights` is overwritten.
    batches : iterable of mappings
        One pass, in eval mode.

    Returns
    -------
    PeftModel
    """
    config.init_lora_weights, config.lora_ga_config = "lora_ga", LoraGAConfig()
    device = next(model.parameters()).device

    def pass_over() -> None:
        model.eval()  # PEFT leaves the model in training mode, with dropout in the gradient
        count = sum(len(batch["labels"]) for batch in batches)
        for batch in batches:
            (model(**to_device(batch, device)).loss * (len(batch["labels"]) / count)).backward()

    training = model.training
    preprocess_loraga(model, config, pass_over)
    model.zero_grad()
    return get_peft_model(model.train(training), config)


def adalora(model: nn.Module, targets: list[str], rank: int, steps: int, scaling: float) -> PeftModel:
    """AdaLoRA (Zhang et al., 2023) that ends at `rank` ranks a matrix on average.

    It starts at 1.5 times that (its defaults are 12 and 8), prunes between the first tenth and the last third of the
    steps, and otherwise has PEFT's default values.

    Parameters
    ----------
    model : PreTrainedModel
        Changed in place.
    targets : list of str
        Full names.
    rank, steps : int
        Average rank at the end; optimizer steps in all.
    scaling : float
        Factor on the update of a matrix of that rank: AdaLoRA divides alpha by the rank a matrix has.

    Returns
    -------
    PeftModel
        To train with `AdaLoraCallback`.
    """
    config = AdaLoraConfig(
        task_type="SEQ_CLS",
        target_modules=targets,
        target_r=rank,
        init_r=max(rank + 1, round(1.5 * rank)),
        lora_alpha=scaling * rank,
        total_step=steps,
        tinit=steps // 10,
        tfinal=steps // 3,
    )
    return get_peft_model(model, config)


class AdaLoraCallback(TrainerCallback):
    """Tell AdaLoRA of every step at the moment when gradients are still there."""

    def __init__(self, model: PeftModel):
        self.model = model

    def on_optimizer_step(self, args, state, control, **kwargs) -> None:
        self.model.base_model.update_and_allocate(state.global_step + 1)


def adalora_ranks(model: PeftModel) -> dict[str, int]:
    """Final ranks: how many of its initial directions every matrix has kept."""
    kept = model.peft_config["default"].rank_pattern
    name = re.compile(r"(?:base_model\.)?(?:model\.)?(.*)\.lora_E(?:\.default)?")
    return {name.fullmatch(key)[1]: sum(mask) for key, mask in kept.items()}
