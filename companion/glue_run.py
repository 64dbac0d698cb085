"""One run of the GLUE study, from its configuration to its record.

The protocol is the same for every method: equal adapter parameters and steps, the learning rate chosen on examples cut from
the *training* split, and the official validation split read once, by the final run.
"""

import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

import pandas as pd
from torch.utils.data import DataLoader
from transformers import PreTrainedModel

from companion import data
from companion.data.folder import folder_of
from companion.finetune import evaluate, finetune, warm_up_head
from companion.methods import RANKS, Problem, adapt, budget_constant
from companion.metrics import score
from companion.runs import latest, parse, provenance

__all__ = ["PAPER", "SETTING", "run", "split", "threshold_constant"]

# peft 0.21 reads a name that transformers 5.23 deprecates; a reader can do nothing about it
warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)

SETTING: dict[str, object] = {
    "study": "glue",
    "model": "minilm",
    "targets": ["query", "value"],
    "rank": 4,
    "scaling": 2.0,
    "head": "warm",
    "examples": 2000,
    "calibration": 512,
    "epochs": 3,
    "batch_size": 32,
    "max_length": 128,
    "precision": "bf16",
}
"""What runs of the CPU study share. ``examples`` None means the whole training split but the tuning examples; gradients and
evaluation are in single precision, training as `precision` says."""

PAPER: dict[str, object] = SETTING | {
    "model": "bert-base-uncased", "rank": 8, "examples": None, "head": "fresh", "epochs": 10, "precision": "fp32",
}  # fmt: skip
"""The setting of P2, appendix G.2, with the budget of its larger uniform rank."""

TUNING_EXAMPLES = 500


def run(config: Mapping[str, object], records: Path | None = None) -> dict:
    """One run of the study.

    Parameters
    ----------
    config : mapping
        `SETTING` or `PAPER` with ``task`` (a name or a folder, as for `companion.data.load_task`), ``method`` (of
        `companion.methods.METHODS`, or ``"probe"``), ``parameter``, ``learning_rate``, ``seed`` and ``split``:
        ``"tuning"`` evaluates on examples cut from the training split, ``"validation"`` on the official one.
    records : Path, optional
        Records of the study so far. Two rules that choose the same ranks are the same training to the last bit: if a run
        with these adapters is there, its result is taken over and not computed again.

    Returns
    -------
    dict
        ``same_as``: the key of the run that was taken over, if one was. ``metrics``: the task's own, ``score`` (their mean, in points), ``loss``, ``train_loss``, ``parameters`` (adapters
        only), ``ranks`` by module, seconds spent on choosing (``choosing``), ``training`` and ``evaluating``; and the
        record's provenance.

    Raises
    ------
    ValueError
        A training that diverged, or what the method raises.
    KeyError
        A setting that is missing.
    """
    frame = data.load_task(config["task"])
    train, tuning = split(frame, config["examples"], config["seed"])
    test = tuning if config["split"] == "tuning" else data.load_task(config["task"], "validation")
    model, loader = _model(config), _loader(config)
    source = provenance(frame, model)
    start = time.perf_counter()
    ranks: dict[str, int] = {}
    result: dict = {"train_loss": None}
    if config["method"] == "probe":
        warm_up_head(model, loader(train))
        chosen = time.perf_counter()
    else:
        batches = loader(train, config["seed"])
        adapted = adapt(config["method"], _problem(config, model, train, len(batches)))
        chosen = time.perf_counter()
        if twin := _twin(config, adapted.ranks, records):
            return {"same_as": twin["key"], "metrics": twin["metrics"] | {"choosing": round(chosen - start, 2)}, **source}
        options = {"callbacks": adapted.callbacks, "precision": config["precision"]}
        result = finetune(adapted.model, batches, config["epochs"], config["learning_rate"], config["seed"], **options)
        model, ranks = adapted.finish(adapted.model)
    trained = time.perf_counter()
    folder = folder_of(config["task"]) is not None
    measured = evaluate(model, loader(test), "" if folder else config["task"])  # a folder "mrpc-mini" is no task of GLUE
    official = {name: value for name, value in measured.items() if name != "loss"}
    times = {"choosing": chosen - start, "training": trained - chosen, "evaluating": time.perf_counter() - trained}
    metrics = {
        **measured,
        "score": score(official),
        "train_loss": result["train_loss"],
        "parameters": sum(rank * cost for rank, cost in zip(ranks.values(), _costs(model, ranks), strict=True)),
        "ranks": ranks,
        **{name: round(seconds, 2) for name, seconds in times.items()},
    }
    return {"metrics": metrics, **source}


def _twin(config: Mapping[str, object], ranks: Mapping[str, int] | None, records: Path | None) -> dict | None:
    """A recorded run of plain LoRA with these ranks and settings, under whatever name."""
    if ranks is None or records is None or not records.exists():
        return None
    free = {"method": None, "parameter": None}
    for key, record in latest(parse(records)[0]).items():
        alike = {**record["config"], **free} == {**config, **free}
        if alike and record["config"]["method"] in RANKS and record.get("metrics", {}).get("ranks") == ranks:
            return {"key": key, **record}
    return None


def threshold_constant(task: str | Path, setting: Mapping[str, object] = SETTING, seed: int = 0) -> float:
    """C' of P2 eq. 7, for which P2 gives no value, from one task: the largest with which the rule spends the budget.

    Parameters
    ----------
    task : str or Path
        The task to calibrate on; a result on the same task is no evidence for the rule.
    setting : mapping
        As for `run`.
    seed : int
        Draws the examples and the fresh head.

    Returns
    -------
    float
        To be frozen on other tasks, as ``threshold:C'``; see `companion.methods.budget_constant`.

    Raises
    ------
    ValueError
        As for `companion.data.load_task`, `companion.gradients.gradient_spectra` and `companion.methods.budget_constant`.
    """
    config = {**setting, "task": task, "seed": seed}
    train, _ = split(data.load_task(task), config["examples"], seed)
    return budget_constant(_problem(config, _model(config), train, steps_per_epoch=1))


def _model(config: Mapping[str, object]) -> PreTrainedModel:
    return data.load_model(config["model"], data.task_of(config["task"]).n_labels, config["seed"])


def _loader(config: Mapping[str, object]) -> Callable[..., DataLoader]:
    tokenizer = data.load_tokenizer(config["model"])

    def loader(rows: pd.DataFrame, seed: int | None = None) -> DataLoader:
        return data.make_dataloader(rows, tokenizer, config["batch_size"], config["max_length"], seed)

    return loader


def _problem(config: Mapping[str, object], model: PreTrainedModel, train: pd.DataFrame, steps_per_epoch: int) -> Problem:
    """What a method may look at; the head is warmed up, where it is, on other examples than the gradient's."""
    loader, count = _loader(config), min(config["calibration"], len(train) // 2)
    if config["head"] == "warm":
        warm_up_head(model, loader(train[count : 2 * count]))
    return Problem(
        model,
        loader(train[:count]),
        rank=config["rank"],
        steps=steps_per_epoch * config["epochs"],
        targets=config["targets"],
        scaling=config["scaling"],
        seed=config["seed"],
        parameter=config.get("parameter"),
    )


def _costs(model, ranks: Mapping[str, int]) -> list[int]:
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    return [sum(base.get_submodule(name).weight.shape) for name in ranks]


def split(frame: pd.DataFrame, examples: int | None, seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Training examples, drawn by the seed, and tuning examples, the same for every seed and never trained on.

    Parameters
    ----------
    frame : pandas.DataFrame
        A training split.
    examples : int or None
        To train on, as far as there are so many; None for all that are left.
    seed : int

    Returns
    -------
    train, tuning : pandas.DataFrame
        500 tuning examples, or a fifth of a smaller frame.
    """
    shuffled = data.sample(frame, len(frame), 0)
    held = min(TUNING_EXAMPLES, len(frame) // 5)
    tuning, rest = shuffled[:held], shuffled[held:]
    return data.sample(rest, len(rest) if examples is None else min(examples, len(rest)), seed), tuning
