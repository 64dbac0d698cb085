"""LoRA students that differ in their ranks and in nothing else, on planted problems and for `companion.oracle`."""

import copy
import math
from collections.abc import Mapping

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import get_linear_schedule_with_warmup

from companion.allocation import proportional_ranks
from companion.batches import to_device
from companion.planted_benchmark import Planted
from companion.read_out import mean_loss, squared_error
from companion.spectral_lora import to_lora_config

__all__ = ["even_ranks", "seeded_lora", "student_loss"]


def even_ranks(ranks: Mapping[str, int], costs: Mapping[str, int]) -> dict[str, int]:
    """As many parameters as `ranks` cost, or as near below as whole ranks come, spread evenly.

    Parameters
    ----------
    ranks, costs : mapping of str to int
        Ranks, and parameters of one rank, by name.

    Returns
    -------
    dict of str to int

    Raises
    ------
    ValueError
        As for `companion.rank_rules.proportional_ranks`.

    Examples
    --------
    >>> even_ranks({"a": 0, "b": 5}, {"a": 10, "b": 10})
    {'a': 3, 'b': 2}
    """
    budget = sum(rank * costs[name] for name, rank in ranks.items())
    return proportional_ranks(dict.fromkeys(ranks, 1.0), dict(costs), budget)


def seeded_lora(model: nn.Module, ranks: Mapping[str, int], seed: int, scaling: float = 2.0, **options) -> nn.Module:
    """LoRA whose initial values at each matrix depend on the seed and that matrix alone.

    PEFT draws from one stream, so that one rank less in the first matrix changes the start of all others. Here the rows
    of A that two choices of ranks share are the same numbers: runs differ in what the ranks differ in.

    Parameters
    ----------
    model : nn.Module
        Changed in place, as by `peft.get_peft_model`.
    ranks : mapping of str to int
        By full name; 0 leaves a matrix as it is.
    seed : int
    scaling : float
        As in `companion.spectral_lora.to_lora_config`.
    **options
        Of `peft.LoraConfig`.

    Returns
    -------
    nn.Module
        A `peft.PeftModel`, or `model` with nothing to train where all ranks are 0.

    Raises
    ------
    ValueError
        As for `companion.spectral_lora.to_lora_config`.
    """
    if not any(ranks.values()):
        return model.requires_grad_(False)
    with torch.random.fork_rng():
        adapted = get_peft_model(model, to_lora_config(ranks, LoraConfig(**options), scaling))
    base = adapted.get_base_model()
    for place, (name, rank) in enumerate(ranks.items()):
        if rank:
            weight = base.get_submodule(name).lora_A["default"].weight  # (r, in)
            bound = 1 / np.sqrt(weight.shape[1])  # PEFT's own: kaiming_uniform with a = sqrt(5)
            start = np.random.default_rng([seed, 2, place]).uniform(-bound, bound, weight.shape)
            weight.data.copy_(torch.from_numpy(start))
    return adapted


def student_loss(planted: Planted, ranks: Mapping[str, int]) -> float:
    """Held-out squared error after training LoRA of these ranks on the noisy labels.

    AdamW with the schedule of `companion.finetune.finetune`, read-out frozen, no dropout, ``steps`` batches in an order
    from the seed. The test labels are the teacher's outputs without noise: 0 is a student that has become the teacher.

    Parameters
    ----------
    planted : Planted
        Remembers the result: the same ranks are trained once.
    ranks : mapping of str to int
        By full name, as in ``planted.ranks``; all 0 means no training, as does ``steps=0``.

    Returns
    -------
    float
        In units of the outputs' variance; ``strength**2`` before training, about.

    Raises
    ------
    ValueError
        Other names, a negative rank, or a training that diverged.
    """
    if set(ranks) != set(planted.ranks):
        raise ValueError(f"ranks: got {sorted(ranks)}; accepted: {sorted(planted.ranks)}")
    key = tuple(int(ranks[name]) for name in planted.ranks)
    if key not in planted._losses:
        planted._losses[key] = _train(planted, dict(zip(planted.ranks, key, strict=True)))
    return planted._losses[key]


def _train(planted: Planted, ranks: Mapping[str, int]) -> float:
    config, batches = planted.config, list(planted.train)
    model = seeded_lora(copy.deepcopy(planted.student), ranks, config["seed"], config["scaling"])
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if parameters and config["steps"]:
        rng, steps = np.random.default_rng([config["seed"], 3]), config["steps"]
        order = np.concatenate([rng.permutation(len(batches)) for _ in range(-(-steps // len(batches)))])[:steps]
        optimizer = torch.optim.AdamW(parameters, lr=config["learning_rate"])
        schedule = get_linear_schedule_with_warmup(optimizer, math.ceil(0.06 * steps), steps)
        for index in order:
            squared_error(model, to_device(batches[index], parameters[0].device)).backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
    loss = mean_loss(model, planted.test)
    if not math.isfinite(loss):
        raise ValueError(f"learning_rate: training diverged at {config['learning_rate']}")
    return loss
