"""Task vectors of the chapter *Do real layers follow the law?*: trainings on several tasks, and what their records say.

A task vector is the change of a matrix by a fine-tuning. How fast do its singular values fall, which directions do those of
several tasks share, and what is surplus rank worth? ``python -m companion.book.real_layers tasks OUT.jsonl`` makes the records.
"""

from collections.abc import Mapping
from itertools import combinations

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.linalg import eigh

from companion import data
from companion.book.real_layers import TARGETS, add_adapters, rounded
from companion.finetune import finetune
from companion.glue_run import SETTING
from companion.runs import provenance
from companion.study_tables import scores_of_setting

__all__ = [
    "KINDS", "kinds_of_pairs", "latest_study", "leading", "log_decay", "run_tasks", "subspace_overlap", "surplus",
    "task_configurations", "task_vector", "weight_spectra",
]  # fmt: skip


def task_vector(config: Mapping[str, object]) -> dict[str, np.ndarray]:
    """P1's ``W_ft - W_pre`` of every target matrix, from a fine-tuning of these matrices and a fresh head.

    Parameters
    ----------
    config : mapping
        ``task``, ``examples``, ``epochs``, ``batch_size``, ``max_length``, ``learning_rate``, ``seed`` (of examples, their
        order and the head). With ``rank`` above 0 adapters with PEFT's start are trained in place of the matrices, drawn
        from ``adapter_seed``.

    Returns
    -------
    dict of str to ndarray, shape (out, in)
    """
    frame = data.load_task(config["task"])
    model = data.load_model("minilm", data.task_of(config["task"]).n_labels, config["seed"])
    names = [name for name, _ in model.named_modules() if name.endswith(TARGETS)]
    before = {name: model.get_submodule(name).weight.detach().clone() for name in names}
    if config["rank"]:
        model = add_adapters(model, {"rank": config["rank"], "init": "peft", "seed": config["adapter_seed"]})
    else:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name.removesuffix(".weight") in names or name.startswith("classifier"))
    rows = data.sample(frame, config["examples"], config["seed"])
    tokenizer = data.load_tokenizer("minilm")
    batches = data.make_dataloader(rows, tokenizer, config["batch_size"], config["max_length"], config["seed"])
    finetune(model, batches, config["epochs"], config["learning_rate"], config["seed"])
    trained = model.merge_and_unload() if config["rank"] else model
    return {n: (trained.get_submodule(n).weight.detach() - before[n]).numpy().astype(float) for n in names}


def run_tasks(config: Mapping[str, object]) -> dict:
    """Task vectors of several tasks: their spectra, and how much of their leading subspaces they share.

    Parameters
    ----------
    config : mapping
        ``runs``: list of (task, seed, adapter_seed), adapter_seed None for a training of the matrices themselves;
        ``rates``: learning rates of matrices and adapters; ``rank`` of the adapters; ``subspaces``: dimensions; and the
        sizes that `task_vector` takes.

    Returns
    -------
    dict
        ``metrics``: ``spectra``, one for each run, 16 singular values of every matrix; ``overlaps``, of all pairs of runs
        of the same kind: ``first`` and ``second`` (places in ``runs``), ``side``, ``dimension`` and `overlap` of every
        matrix; ``width``: the dimension of the space. And provenance, with ``data`` by task.
    """
    vectors = []
    for task, seed, adapter_seed in config["runs"]:
        adapters = adapter_seed is not None
        own = {"task": task, "seed": seed, "adapter_seed": adapter_seed, "learning_rate": config["rates"][adapters]}
        vectors.append(task_vector({**config, **own, "rank": config["rank"] if adapters else 0}))
    most = max(16, *config["subspaces"])
    bases = [{name: leading(update, most) for name, update in vector.items()} for vector in vectors]
    pairs = [
        (i, j)
        for i, j in combinations(range(len(bases)), 2)
        if (config["runs"][i][2] is None) == (config["runs"][j][2] is None)
    ]
    overlaps = [
        {"first": i, "second": j, "side": side, "dimension": k, "overlap": rounded(_shared(bases[i], bases[j], k, side))}
        for i, j in pairs
        for k in config["subspaces"]
        for side in ("left", "right")
    ]
    spectra = [[rounded(s[:16]) for _, s, _ in parts.values()] for parts in bases]
    width = len(next(iter(vectors[0].values())))
    sources = {task: provenance(data.load_task(task)) for task, *_ in config["runs"]}
    source = {**next(iter(sources.values())), "data": {task: found["data"] for task, found in sources.items()}}
    return {"metrics": {"spectra": spectra, "overlaps": overlaps, "width": width}, **source}


def _shared(first: Mapping[str, tuple], second: Mapping[str, tuple], k: int, side: str) -> list[float]:
    """Mean squared cosine between leading singular subspaces, by matrix."""
    return [subspace_overlap(_lead(first[name], k, side), _lead(second[name], k, side)) for name in first]


def _lead(svd: tuple[np.ndarray, np.ndarray, np.ndarray], k: int, side: str) -> np.ndarray:
    return svd[0][:, :k] if side == "left" else svd[2][:k].T


def weight_spectra(count: int = 16) -> np.ndarray:
    """Leading singular values of the frozen query and value matrices of MiniLM, shape (matrices, count)."""
    modules = data.load_model("minilm", 2, 0).named_modules()
    weights = [module.weight.detach().numpy() for name, module in modules if name.endswith(TARGETS)]
    return np.array([leading(weight.astype(float), count)[1] for weight in weights])


def leading(matrix: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Leading singular triples, u (out, count), s and v' (count, in), from the eigenvectors of the Gram matrix.

    Ten times as fast as a full decomposition, and accurate for values that are not tiny beside the first. Beyond the rank
    all three are zero: there are no such directions.

    Parameters
    ----------
    matrix : ndarray, shape (out, in)
    count : int
        At most the smaller dimension.

    Raises
    ------
    ValueError
        More triples than a matrix of this shape has.
    """
    width = matrix.shape[1]
    if not 1 <= count <= min(matrix.shape):
        raise ValueError(f"count: got {count}; accepted: 1 to {min(matrix.shape)} for a matrix of shape {matrix.shape}")
    values, vectors = eigh(matrix.T @ matrix, subset_by_index=[width - count, width - 1])
    values, v = values[::-1], vectors[:, ::-1]
    real = values > max(matrix.shape) * np.finfo(float).eps * values[0]
    s = np.sqrt(np.where(real, values, 0))
    v = np.where(real, v, 0)
    return matrix @ v / np.where(real, s, 1), s, v.T


def subspace_overlap(first: np.ndarray, second: np.ndarray) -> float:
    """Mean squared cosine of the principal angles between two subspaces of equal dimension.

    Parameters
    ----------
    first, second : ndarray, shape (d, k)
        Orthonormal bases.

    Returns
    -------
    float
        ``||first' second||_F^2 / k``: 1 for the same subspace, k/d on average for random ones.
    """
    return float(np.sum((first.T @ second) ** 2) / first.shape[1])


def task_configurations() -> list[dict]:
    """Task vectors of four tasks after 16 steps, then of five after about 190, two seeds each.

    As matrices; and adapters that share their initial values or do not.
    """
    base = {"study": "real-layers-tasks", "batch_size": 32, "max_length": 128, "rank": 16, "subspaces": [1, 2, 4, 8, 16]}
    sizes = [(("sst2", "mrpc", "stsb", "qnli"), 512, 1), (("sst2", "mrpc", "stsb", "qnli", "rte"), 2000, 3)]
    adapters = [["sst2", 0, 0], ["mrpc", 0, 0], ["sst2", 1, 1]]
    return [
        base
        | {"runs": [[task, seed, None] for task in tasks for seed in (0, 1)] + adapters, "rates": [1e-4, 2e-3]}
        | {"examples": examples, "epochs": epochs}
        for tasks, examples, epochs in sizes
    ]


def latest_study(stored: pd.DataFrame) -> dict[str, dict]:
    """The last record of a study as ``{"config": ..., "metrics": ...}``.

    Parameters
    ----------
    stored : DataFrame
        From `companion.book.layer_laws.read`, with a row or more.
    """
    row = stored.iloc[-1]
    return {
        part: {name.removeprefix(f"{part}."): row[name] for name in stored if name.startswith(f"{part}.")}
        for part in ("config", "metrics")
    }


def log_decay(spectra: ArrayLike) -> np.ndarray:
    """``log rho`` of modes 1 to 8 and of modes 9 to 16: slopes of lines through the logarithms.

    Parameters
    ----------
    spectra : array_like, shape (matrices, 16)
        Decreasing, positive.

    Returns
    -------
    ndarray, shape (2, matrices)
    """
    logs = np.log(np.asarray(spectra, float))
    return -np.array([np.polyfit(np.arange(8), part.T, 1)[0] for part in (logs[:, :8], logs[:, 8:16])])


KINDS = {
    "same task": "one task, two seeds",
    "two tasks": "two tasks",
    "same A": "adapters, same A, two tasks",
    "other A": "adapters, other A",
}


def kinds_of_pairs(record: Mapping[str, object]) -> pd.DataFrame:
    """Overlaps of task vectors over that of random subspaces.

    Parameters
    ----------
    record : mapping
        ``config`` and ``metrics`` of `run_tasks`.

    Returns
    -------
    DataFrame
        One row for each pair, side, dimension and matrix: ``kind`` (a key of `KINDS`), ``side``, ``dimension``, ``ratio``.
    """
    runs, width, rows = record["config"]["runs"], record["metrics"]["width"], []
    for pair in record["metrics"]["overlaps"]:
        (task, _, a), (other_task, _, other_a) = runs[pair["first"]], runs[pair["second"]]
        kind = ("same task" if task == other_task else "two tasks") if a is None else "same A" if a == other_a else "other A"
        chance = pair["dimension"] / width
        rows += [(kind, pair["side"], pair["dimension"], value / chance) for value in pair["overlap"]]
    return pd.DataFrame(rows, columns=["kind", "side", "dimension", "ratio"])


def surplus(runs: pd.DataFrame, low: int = 8, high: int = 64, setting: Mapping[str, object] = SETTING) -> np.ndarray:
    """Score at a high uniform rank minus that at a low one, for every task and seed that has both.

    Parameters
    ----------
    runs : DataFrame
        Records of the GLUE study: final runs count as in `companion.study_tables.final_scores`, at the learning rate that
        tuning chose for their task and rank.
    low, high : int
        Ranks.
    setting : mapping
        What both runs share apart from the rank.

    Returns
    -------
    ndarray
        Points; empty where there is no such pair.
    """
    few, many = (scores_of_setting(runs, {**setting, "rank": rank, "method": "uniform"}) for rank in (low, high))
    return (many - few).dropna().to_numpy(float)
