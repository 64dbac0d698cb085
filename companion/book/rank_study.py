"""The two experiments of the chapter *A rank for a real model*: how spectra grow with data, and ranks against uniform ranks.

The chapter runs them at small size; ``python -m companion.book.rank_study growth|compare OUT.jsonl`` makes the records
that it shows beside them, and goes on where an earlier run of it stopped.
"""

import sys
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np
import torch
from peft import LoraConfig, get_peft_model

from companion import data
from companion.advice import assess
from companion.finetune import adapter_parameters, evaluate, finetune, warm_up_head
from companion.gradients import GradientSpectrum, gradient_spectra
from companion.rank_rules import floor_rank, permuted_ranks, proportional_ranks
from companion.spectral_lora import spectral_ranks, to_lora_config
from companion.study import append_record, provenance, read_records

# peft 0.21 reads a name that transformers 5.23 deprecates; a reader can do nothing about it
warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)

TARGETS = ["query", "value"]
WARM_UP = 512  # examples the head is fitted to, apart from all others


def warmed_model(task: str = "qnli-mini", seed: int = 0):
    """MiniLM with a head fitted to 512 examples, its tokenizer, and the remaining training examples in random order."""
    frame = data.load_task(task)
    frame = data.sample(frame, len(frame), seed)
    model, tokenizer = data.load_model("minilm", data.TASKS[task].n_labels, seed), data.load_tokenizer("minilm")
    warm_up_head(model, data.make_dataloader(frame[:WARM_UP], tokenizer))
    return model, tokenizer, frame[WARM_UP:]


def growth_metrics(spectra: Mapping[str, GradientSpectrum]) -> dict:
    """Per matrix, in the model's order: s_1 / floor and modes above the floor; and the assessment of all."""
    summary = assess(spectra)
    return {
        "names": list(spectra),
        "clearance": [round(float(s.singular_values[0] / s.noise_floor), 4) for s in spectra.values()],
        "modes": [floor_rank(s.singular_values, s.noise_floor) for s in spectra.values()],
        "needed": round(summary.needed) if np.isfinite(summary.needed) else None,
        "needed_at_least": round(summary.needed_at_least) if np.isfinite(summary.needed_at_least) else None,
    }


def train_and_evaluate(model, ranks: Mapping[str, int], train, validation, seed: int, epochs: int, learning_rate: float) -> dict:
    """Give `model` adapters of these ranks, train them, and evaluate.

    Parameters
    ----------
    model : PreTrainedModel
        Changed in place, so fresh for each call; the adapters' initial values are drawn from `seed`.
    ranks : mapping of str to int
    train, validation : DataLoader
    seed, epochs, learning_rate
        As in `companion.finetune.finetune`.

    Returns
    -------
    dict
        ``parameters`` (adapters only), ``loss`` and ``accuracy`` on the validation set, ``train_loss``, ``seconds``.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        adapted = get_peft_model(model, to_lora_config(ranks, LoraConfig(task_type="SEQ_CLS")))
    run = finetune(adapted, train, epochs, learning_rate, seed)
    return {"parameters": adapter_parameters(adapted), **evaluate(adapted, validation), **run}


def competitors(spectra: Mapping[str, GradientSpectrum], rule: str, seed: int) -> dict[str, dict[str, int]]:
    """Ranks by the rule, the same number of ranks spread evenly, the rule's ranks permuted, and Algorithm 1 as printed."""
    chosen, costs = spectral_ranks(spectra, rule, max_rank=16, min_rank=1), {name: sum(s.shape) for name, s in spectra.items()}
    budget = sum(rank * costs[name] for name, rank in chosen.items())
    return {
        rule: chosen,
        "uniform": proportional_ranks(dict.fromkeys(chosen, 1.0), costs, budget),
        "permuted": permuted_ranks(chosen, costs, np.random.default_rng(seed)),
        "gap": spectral_ranks(spectra, "gap", max_rank=16),
    }


def record_growth(path: Path, tasks: Iterable[str], flips: int = 19) -> None:
    """Spectra of nested sets of 64, 128, … examples, as many as the task has."""
    for task in tasks:
        model, tokenizer, frame = warmed_model(task)
        sizes = 2 ** np.arange(6, int(np.log2(len(frame))) + 1)
        for n in sizes[sizes <= 8192].tolist():
            batches = data.make_dataloader(frame[:n], tokenizer)
            _once(
                path,
                {"study": "growth", "task": task, "examples": n, "flips": flips, "seed": 0},
                lambda batches=batches: growth_metrics(gradient_spectra(model, batches, TARGETS, flips=flips)),
                frame,
            )


def record_compare(path: Path, seeds: Iterable[int], examples: int = 2048, epochs: int = 2, learning_rate: float = 2e-3) -> None:
    """Train the competitors on QNLI-mini; ranks from 512 examples, as in P2 appendix G.2."""
    rule = "energy:0.5"
    for seed in seeds:
        model, tokenizer, frame = warmed_model(seed=seed)
        spectra = gradient_spectra(model, data.make_dataloader(frame[:512], tokenizer), TARGETS, rng=seed)
        validation = data.make_dataloader(data.load_task("qnli-mini", "validation"), tokenizer)
        config = {"study": "compare", "seed": seed, "examples": examples, "epochs": epochs, "learning_rate": learning_rate}
        _once(path, config | {"method": "frozen"}, lambda m=model: {"parameters": 0, **evaluate(m, validation)}, frame)
        for method, ranks in competitors(spectra, rule, seed).items():

            def run(ranks=ranks, seed=seed) -> dict:
                fresh, tokenizer, frame = warmed_model(seed=seed)
                train = data.make_dataloader(frame[:examples], tokenizer, batch_size=16, seed=seed)
                metrics = train_and_evaluate(fresh, ranks, train, validation, seed, epochs, learning_rate)
                return metrics | {"ranks": list(ranks.values())}

            _once(path, config | {"method": method}, run, frame)


def _once(path: Path, config: dict, run: Callable[[], dict], frame) -> None:
    """Run and record, unless this configuration is recorded already."""
    if path.exists():
        done = read_records(path)
        columns = [f"config.{key}" for key in config]
        if set(columns) <= set(done) and (done[columns] == list(config.values())).all(axis=1).any():
            return
    metrics = run()
    append_record(path, {"config": config, "metrics": metrics, **provenance(frame)})
    print(config, {key: value for key, value in metrics.items() if key != "names"}, flush=True)


if __name__ == "__main__":
    study, out = sys.argv[1], Path(sys.argv[2])
    record_growth(out, sys.argv[3:] or ["qnli-mini"]) if study == "growth" else record_compare(out, range(3))
