"""Training runs of the chapter *Do real layers follow the law?*: what the factors of every adapter do, step by step.

``python -m companion.book.real_layers OUT.jsonl`` makes the records that the chapter shows, and goes on where an earlier run
of it stopped.
"""

import sys
import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from transformers import TrainerCallback

from companion import data
from companion.finetune import evaluate, finetune, warm_up_head
from companion.runs import provenance
from companion.spectral_lora import to_lora_config
from companion.study import run_study

# peft 0.21 reads a name that transformers 5.23 deprecates; a reader can do nothing about it
warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)

TARGETS = ("query", "value")
SCALING = 2.0
KEPT = 12  # modes recorded of each matrix


class FactorLog(TrainerCallback):
    """Keeps the factors of every adapter at the start and after every so many steps.

    Attributes
    ----------
    steps : list of int
    times : list of float
        Sum of the learning rates so far: the time of gradient flow.
    factors : dict of str to list of (ndarray, ndarray)
        B (out, r) and A (r, in) of every matrix, float32.
    """

    def __init__(self, model: PeftModel, every: int):
        self.layers = {n: m for n, m in model.get_base_model().named_modules() if isinstance(m, LoraLayer)}
        self.every = every
        self.steps: list[int] = []
        self.times: list[float] = []
        self.factors: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {name: [] for name in self.layers}
        self._time = 0.0

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        self._keep(0)

    def on_optimizer_step(self, args, state, control, optimizer=None, **kwargs) -> None:
        self._time += optimizer.param_groups[0]["lr"]

    def on_step_end(self, args, state, control, **kwargs) -> None:
        if state.global_step % self.every == 0:
            self._keep(state.global_step)

    def _keep(self, step: int) -> None:
        self.steps.append(step)
        self.times.append(self._time)
        for name, layer in self.layers.items():
            pair = layer.lora_B["default"].weight, layer.lora_A["default"].weight
            self.factors[name].append(tuple(p.detach().cpu().numpy().copy() for p in pair))


def trajectory(factors: list[tuple[np.ndarray, np.ndarray]], scaling: float) -> dict[str, list]:
    """What the factors of one matrix did: of every checkpoint, leading modes of ``s B A`` first.

    Parameters
    ----------
    factors : list of (ndarray, ndarray)
        B (out, r) and A (r, in).
    scaling : float

    Returns
    -------
    dict
        ``singular_values`` (checkpoints, modes); ``amplitudes`` u_i' dW(t) v_i on the singular vectors of the last update,
        (checkpoints, modes); ``balance_drift``: Frobenius norm of the change of ``A A' - B'B`` over that of the largest
        of ``A A'`` and ``B'B``; ``a_norm``, ``b_norm``.
    """
    updates = [scaling * b.astype(float) @ a.astype(float) for b, a in factors]
    u, _, vt = np.linalg.svd(updates[-1], full_matrices=False)
    invariant = [a.astype(float) @ a.T - b.T.astype(float) @ b for b, a in factors]
    size = [max(np.linalg.norm(a @ a.T), np.linalg.norm(b.T @ b)) for b, a in factors]
    return {
        "singular_values": [_short(np.linalg.svd(update, compute_uv=False)[:KEPT]) for update in updates],
        "amplitudes": [_short(np.einsum("ik,ij,kj->k", u, update, vt)[:KEPT]) for update in updates],
        "balance_drift": _short(np.linalg.norm(x - invariant[0]) / s for x, s in zip(invariant, size, strict=True)),
        "a_norm": _short(np.linalg.norm(a) for _, a in factors),
        "b_norm": _short(np.linalg.norm(b) for b, _ in factors),
    }


def _short(values) -> list[float]:
    return [float(f"{value:.4g}") for value in values]


def start(model: PeftModel, init: str, seed: int) -> None:
    """Give the factors A other initial values: ``"peft"`` leaves them; ``"frame:0.01"`` makes 0.01 times orthonormal rows,
    as P2 has it (its A and B exchanged)."""
    kind, _, size = init.partition(":")
    if kind == "peft":
        return
    if kind != "frame":
        raise ValueError(f"init: got {init!r}; accepted: 'peft', 'frame:<size>'")
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, LoraLayer):
            weight = module.lora_A["default"].weight
            rows = torch.linalg.qr(torch.randn(weight.shape[1], weight.shape[0], generator=generator))[0].T
            weight.data.copy_(float(size) * rows)


def run(config: Mapping[str, object]) -> dict:
    """One training run with its trajectories.

    Parameters
    ----------
    config : mapping
        ``task``, ``examples`` (None: all), ``epochs``, ``rank``, ``optimizer``, ``init``, ``learning_rate``, ``every``
        (steps between checkpoints), ``precision``, ``seed``.

    Returns
    -------
    dict
        ``metrics`` (score, loss, ``steps``, ``times``, ``layers``: see `trajectory`) and provenance.
    """
    frame = data.load_task(config["task"])
    model = data.load_model("minilm", data.task_of(config["task"]).n_labels, config["seed"])
    source, tokenizer = provenance(frame, model), data.load_tokenizer("minilm")
    train = data.sample(frame, config["examples"] or len(frame), config["seed"])
    warm_up_head(model, data.make_dataloader(train[:512], tokenizer))
    adapted, log = _train(model, train, tokenizer, config)
    validation = data.make_dataloader(data.load_task(config["task"], "validation"), tokenizer)
    layers = {name: trajectory(factors, SCALING) for name, factors in log.factors.items()}
    times = [float(f"{time:.5g}") for time in log.times]
    measured = evaluate(adapted, validation, config["task"])
    return {"metrics": {**measured, "steps": log.steps, "times": times, "layers": layers}, **source}


def _train(model, train, tokenizer, config: Mapping[str, object]) -> tuple[PeftModel, FactorLog]:
    names = [name for name, _ in model.named_modules() if name.endswith(TARGETS)]
    with torch.random.fork_rng():
        torch.manual_seed(config["seed"])
        ranks = dict.fromkeys(names, config["rank"])
        adapted = get_peft_model(model, to_lora_config(ranks, LoraConfig(task_type="SEQ_CLS"), SCALING))
    start(adapted, config["init"], config["seed"])
    log = FactorLog(adapted, config["every"])
    finetune(
        adapted, data.make_dataloader(train, tokenizer, seed=config["seed"]), config["epochs"], config["learning_rate"],
        config["seed"], callbacks=[log], precision=config["precision"], optimizer=config["optimizer"],
    )  # fmt: skip
    return adapted, log


def configurations() -> list[dict]:
    """P2's run (AdamW, PEFT's start), then gradient descent, then the start that P2's theorem asks for."""
    base = {"study": "real-layers", "task": "sst2", "examples": None, "epochs": 1, "rank": 64, "every": 50, "precision": "bf16"}
    runs = [("adamw", "peft", 2e-4), ("sgd", "frame:0.01", 0.1), ("sgd", "peft", 0.1), ("adamw", "frame:0.01", 2e-4)]
    return [
        base | {"optimizer": optimizer, "init": init, "learning_rate": rate, "seed": seed}
        for seed in (0, 1)
        for optimizer, init, rate in runs
    ]


if __name__ == "__main__":
    print(run_study(run, configurations(), Path(sys.argv[1])))
