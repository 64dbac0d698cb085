"""Training runs of the chapter *Do real layers follow the law?*: what the factors of every adapter do, step by step.

``python -m companion.book.real_layers OUT.jsonl`` makes the records that the chapter shows, and goes on where an earlier run
of it stopped; with ``start`` before the name it measures what the same runs start from, with ``tasks`` it compares task vectors
(`companion.book.task_vectors`).
"""

import sys
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from transformers import TrainerCallback

from companion import data
from companion.finetune import evaluate, finetune, warm_up_head
from companion.gradients import mean_gradients
from companion.runs import provenance
from companion.scalar_flow import seed_strengths
from companion.spectral_lora import to_lora_config
from companion.study import run_study

# peft 0.21 reads a name that transformers 5.23 deprecates; a reader can do nothing about it
warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)

TARGETS = ("query", "value")
SCALING = 2.0
KEPT = 12  # modes recorded of each matrix
WARM_UP = 512  # examples the head is fitted to


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
        "singular_values": [rounded(np.linalg.svd(update, compute_uv=False)[:KEPT]) for update in updates],
        "amplitudes": [rounded(np.einsum("ik,ij,kj->k", u, update, vt)[:KEPT]) for update in updates],
        "balance_drift": rounded(np.linalg.norm(x - invariant[0]) / s for x, s in zip(invariant, size, strict=True)),
        "a_norm": rounded(np.linalg.norm(a) for _, a in factors),
        "b_norm": rounded(np.linalg.norm(b) for b, _ in factors),
    }


def rounded(values: Iterable[float]) -> list[float]:
    """Four significant digits, as records have them."""
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
    warm_up_head(model, data.make_dataloader(train[:WARM_UP], tokenizer))
    adapted, log = _train(model, train, tokenizer, config)
    validation = data.make_dataloader(data.load_task(config["task"], "validation"), tokenizer)
    layers = {name: trajectory(factors, SCALING) for name, factors in log.factors.items()}
    times = [float(f"{time:.5g}") for time in log.times]
    measured = evaluate(adapted, validation, config["task"])
    return {"metrics": {**measured, "steps": log.steps, "times": times, "layers": layers}, **source}


def _train(model, train, tokenizer, config: Mapping[str, object]) -> tuple[PeftModel, FactorLog]:
    adapted = add_adapters(model, config)
    log = FactorLog(adapted, config["every"])
    finetune(
        adapted, data.make_dataloader(train, tokenizer, seed=config["seed"]), config["epochs"], config["learning_rate"],
        config["seed"], callbacks=[log], precision=config["precision"], optimizer=config["optimizer"],
    )  # fmt: skip
    return adapted, log


def add_adapters(model, config: Mapping[str, object]) -> PeftModel:
    """The model with adapters in their initial state.

    Parameters
    ----------
    model : PreTrainedModel
        Changed in place.
    config : mapping
        ``rank``, ``init`` (see `start`), ``seed``.

    Returns
    -------
    PeftModel
    """
    names = [name for name, _ in model.named_modules() if name.endswith(TARGETS)]
    with torch.random.fork_rng():
        torch.manual_seed(config["seed"])
        ranks = dict.fromkeys(names, config["rank"])
        adapted = get_peft_model(model, to_lora_config(ranks, LoraConfig(task_type="SEQ_CLS"), SCALING))
    start(adapted, config["init"], config["seed"])
    return adapted


@dataclass(frozen=True)
class FactorPath:
    """A path of gradient descent on fixed examples, with everything that a prediction needs.

    Attributes
    ----------
    times : ndarray, shape (T,)
        Number of steps times their size: the time of the factors.
    losses : ndarray, shape (T,)
    gradients : dict of str to ndarray, shape (out, in)
        Gradient of the loss at the start, by matrix.
    factors : dict of str to list of (ndarray, ndarray)
        B (out, r) and A (r, in) at each time, float64.
    """

    times: np.ndarray
    losses: np.ndarray
    gradients: dict[str, np.ndarray]
    factors: dict[str, list[tuple[np.ndarray, np.ndarray]]]

    def updates(self, name: str) -> np.ndarray:
        """``s B A`` of one matrix at each time, shape (T, out, in)."""
        return np.array([SCALING * b @ a for b, a in self.factors[name]])


def descend(config: Mapping[str, object]) -> FactorPath:
    """Plain gradient descent on one batch: no noise of mini-batches, no dropout, no schedule, no momentum.

    Parameters
    ----------
    config : mapping
        ``task``, ``examples`` (all in one batch), ``max_length``, ``warm_up`` (other examples, for the head), ``rank``,
        ``init``, ``learning_rate``, ``steps``, ``seed``. Adapters alone are trained.

    Returns
    -------
    FactorPath
    """
    model, batch = _warm(config)
    found = mean_gradients(model, [batch], TARGETS, flips=0)
    gradients = {name: gradient.mean.numpy().astype(float) for name, gradient in found.items()}
    adapted = add_adapters(model, config).eval()
    log, losses = FactorLog(adapted, 1), []
    factors = [p for name, p in adapted.named_parameters() if "lora_" in name]
    for step in range(config["steps"] + 1):
        loss = adapted(**batch).loss
        log._keep(step)
        losses.append(loss.item())
        with torch.no_grad():
            for factor, slope in zip(factors, torch.autograd.grad(loss, factors), strict=True):
                factor -= config["learning_rate"] * slope
    paths = {name: [(b.astype(float), a.astype(float)) for b, a in pairs] for name, pairs in log.factors.items()}
    return FactorPath(config["learning_rate"] * np.array(log.steps), np.array(losses), gradients, paths)


def _warm(config: Mapping[str, object]):
    """Model with a warm head, and one batch of examples that the head has not seen."""
    frame = data.load_task(config["task"])
    model = data.load_model("minilm", data.task_of(config["task"]).n_labels, config["seed"])
    tokenizer = data.load_tokenizer("minilm")
    frame = data.sample(frame, config["warm_up"] + config["examples"], config["seed"])
    head, rest = frame[: config["warm_up"]], frame[config["warm_up"] :]
    warm_up_head(model, data.make_dataloader(head, tokenizer, max_length=config["max_length"]))
    (batch,) = data.make_dataloader(rest, tokenizer, len(rest), config["max_length"])
    return model, batch


def starting_point(gradient: np.ndarray, a: np.ndarray, scaling: float) -> dict[str, list[float]]:
    """What the laws need of one matrix, of the modes of its first gradient ``G = sum_i l_i u_i v_i'``.

    Parameters
    ----------
    gradient : ndarray, shape (out, in)
    a : ndarray, shape (r, in)
        The initial factor.
    scaling : float
        s of ``dW = s B A``.

    Returns
    -------
    dict
        ``strengths`` l_i; ``lengths`` ``s |A v_i|^2`` (P2's eps rho_i, squared); ``seeds``: the same after the stronger
        modes are projected out (`companion.scalar_flow.seed_strengths`); ``slopes``: singular values of
        ``s^2 G A'A``, the speed of dW at time 0.
    """
    _, strengths, vt = np.linalg.svd(gradient, full_matrices=False)
    lengths = scaling * np.sum((a @ vt.T) ** 2, axis=0)
    slopes = np.linalg.svd(scaling**2 * (gradient @ a.T) @ a, compute_uv=False)
    seeds = seed_strengths(gradient.T, np.sqrt(scaling) * a.T)
    named = {"strengths": strengths, "lengths": lengths, "seeds": seeds, "slopes": slopes}
    return {name: rounded(values[:KEPT]) for name, values in named.items()}


def run_start(config: Mapping[str, object]) -> dict:
    """The first gradient of the runs of `configurations`, with the initial factors of both starts.

    Parameters
    ----------
    config : mapping
        ``task``, ``examples`` (of the gradient), ``rank``, ``inits``, ``flips``, ``seed``.

    Returns
    -------
    dict
        ``metrics``: by start and matrix what `starting_point` says, with the noise ``floor`` of the gradient; provenance.
    """
    frame = data.load_task(config["task"])
    model = data.load_model("minilm", data.task_of(config["task"]).n_labels, config["seed"])
    source, tokenizer = provenance(frame, model), data.load_tokenizer("minilm")
    train = data.sample(frame, len(frame), config["seed"])
    warm_up_head(model, data.make_dataloader(train[:WARM_UP], tokenizer))
    batches = data.make_dataloader(train[WARM_UP : WARM_UP + config["examples"]], tokenizer)
    found = mean_gradients(model, batches, TARGETS, flips=config["flips"], rng=config["seed"])
    metrics = {}
    for init in config["inits"]:
        fresh = data.load_model("minilm", data.task_of(config["task"]).n_labels, config["seed"])
        layers = FactorLog(add_adapters(fresh, {**config, "init": init}), 1).layers
        metrics[init] = {
            name: starting_point(
                gradient.mean.numpy().astype(float), layers[name].lora_A["default"].weight.detach().numpy().astype(float), SCALING
            )
            for name, gradient in found.items()
        }
    floors = {name: max(np.linalg.norm(flip.numpy(), 2) for flip in g.flipped) for name, g in found.items()}
    return {"metrics": {**metrics, "floor": dict(zip(floors, rounded(floors.values()), strict=True))}, **source}


def configurations() -> list[dict]:
    """P2's run (AdamW, PEFT's start), then gradient descent, then the start that P2's theorem asks for."""
    base = {"study": "real-layers", "task": "sst2", "examples": None, "epochs": 1, "rank": 64, "every": 50, "precision": "bf16"}
    runs = [("adamw", "peft", 2e-4), ("sgd", "frame:0.01", 0.1), ("sgd", "peft", 0.1), ("adamw", "frame:0.01", 2e-4)]
    return [
        base | {"optimizer": optimizer, "init": init, "learning_rate": rate, "seed": seed}
        for seed in (0, 1)
        for optimizer, init, rate in runs
    ]


def start_configurations() -> list[dict]:
    """Where the runs of `configurations` start."""
    base = {"study": "real-layers-start", "task": "sst2", "examples": 8192, "rank": 64, "flips": 9}
    return [base | {"inits": ["peft", "frame:0.01"], "seed": seed} for seed in (0, 1)]


if __name__ == "__main__":
    from companion.book.task_vectors import run_tasks, task_configurations  # here, because it imports this module

    study, path = sys.argv[1:] if len(sys.argv) == 3 else ("", sys.argv[1])
    made = {"": (run, configurations), "start": (run_start, start_configurations), "tasks": (run_tasks, task_configurations)}
    function, grid = made[study]
    print(run_study(function, grid(), Path(path)))
