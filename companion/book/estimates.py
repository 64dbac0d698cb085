"""How well a first gradient can be estimated: spectra as the examples grow, under several heads, over disjoint draws.

``python -m companion.book.estimates OUT.jsonl`` makes the records that the chapter *SpectralLoRA on GLUE* shows, and goes
on where an earlier run of it stopped.
"""

import sys
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import torch

from companion import data
from companion.advice import assess
from companion.finetune import head_of, warm_up_head
from companion.gradients import GradientSpectrum, MeanGradient, gradient_spectra, mean_gradients, spectrum_of
from companion.rank_rules import make_rule
from companion.runs import provenance
from companion.study import run_study

# peft 0.21 reads a name that transformers 5.23 deprecates; a reader can do nothing about it
warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)

TARGETS = ["query", "value"]
HEADS = ("warm", "fresh", "early")
RULES = ("gap", "ratio", "floor", "energy:0.7", "energy:0.8", "energy:0.9", "energy:0.95")
WARM_UP = 512  # examples a warm head is fitted to, apart from all others
KEPT = 16  # singular values recorded of each matrix


def run(config: Mapping[str, object]) -> dict:
    """Spectra of one draw of examples.

    Parameters
    ----------
    config : mapping
        ``task``, ``head`` (``"warm"``: fitted to 512 other examples; ``"fresh"``: as drawn; ``"early"``: the gradient is
        summed while AdamW trains a fresh head over the same batches, weights frozen), ``examples``, ``draw`` (disjoint
        draws of that size are numbered from 0; those of several sizes are nested), ``flips``, ``seed``.

    Returns
    -------
    dict
        ``metrics``: per matrix in the model's order the leading ``values`` (singular values), the ``floor``, the
        ``energy`` of the spectrum and the mean ``flip_energy``; ranks by rule; the assessment of all; provenance.
    """
    frame = data.load_task(config["task"])
    frame = data.sample(frame, len(frame), config["seed"])
    model = data.load_model("minilm", data.task_of(config["task"]).n_labels, config["seed"])
    source, tokenizer = provenance(frame, model), data.load_tokenizer("minilm")
    if config["head"] == "warm":
        warm_up_head(model, data.make_dataloader(frame[:WARM_UP], tokenizer))
    first = WARM_UP + config["draw"] * config["examples"]
    chosen = frame[first : first + config["examples"]]
    if len(chosen) < config["examples"]:
        raise ValueError(f"{config['task']} has no draw {config['draw']} of {config['examples']} examples")
    measure = _early_spectra if config["head"] == "early" else gradient_spectra
    spectra = measure(model, data.make_dataloader(chosen, tokenizer), TARGETS, flips=config["flips"], rng=config["seed"])
    return {"metrics": spectra_metrics(spectra), **source}


def spectra_metrics(spectra: Mapping[str, GradientSpectrum]) -> dict:
    """What a record keeps of the spectra; all lists are in the model's order."""
    summary = assess(spectra)
    return {
        "names": list(spectra),
        "values": [[_round(value) for value in s.singular_values[:KEPT]] for s in spectra.values()],
        "floor": [_round(s.noise_floor) for s in spectra.values()],
        "energy": [_round(np.sum(s.singular_values**2)) for s in spectra.values()],
        "flip_energy": [_round(np.mean(s.flip_energies)) for s in spectra.values()],
        "ranks": {rule: [make_rule(rule)(s) for s in spectra.values()] for rule in RULES},
        "p_value": _round(summary.p_value),
        "needed": _round(summary.needed) if np.isfinite(summary.needed) else None,
        "needed_at_least": _round(summary.needed_at_least) if np.isfinite(summary.needed_at_least) else None,
    }


def _round(value: float) -> float:
    return float(f"{value:.5g}")


def _early_spectra(model, batches: Iterable, targets: list[str], flips: int, rng: int) -> dict[str, GradientSpectrum]:
    """Spectra of gradients accumulated while the head learns: one step of the head after every batch."""
    optimizer = torch.optim.AdamW(head_of(model).parameters(), lr=1e-3)
    signs = np.random.default_rng(rng)
    found = []
    for batch in batches:
        if len(batch["labels"]) < 8:  # too few for balanced signs; at most the last batch
            continue
        found.append(mean_gradients(model, [batch], targets, flips=flips, rng=signs))
        optimizer.zero_grad()
        model(**batch).loss.backward()
        optimizer.step()
    return {name: spectrum_of(_pooled([gradients[name] for gradients in found])) for name in found[0]}


def _pooled(parts: list[MeanGradient]) -> MeanGradient:
    """The mean gradient of several batches together, and its flips, from those of each."""
    n = np.array([part.n_examples for part in parts])
    share = torch.tensor(n / n.sum(), dtype=parts[0].mean.dtype)
    mean = sum(w * part.mean for w, part in zip(share, parts, strict=True))
    flipped = sum(w * part.flipped for w, part in zip(share, parts, strict=True))
    return MeanGradient(mean, flipped, int(n.sum()))


def configurations(tasks: Iterable[str], flips: int = 19, seed: int = 0) -> list[dict]:
    """Growth to the whole training set, heads, and disjoint draws, the most telling first."""
    found = []
    for task in tasks:
        available = len(data.load_task(task)) - WARM_UP
        sizes = [n for n in 2 ** np.arange(6, 17) if n <= available]
        growth = [(int(n), 0, "warm") for n in sizes] + [(available, 0, "warm")] * (available not in sizes)
        heads = [(n, 0, head) for n in (512, 2048) for head in ("fresh", "early") if n <= available]
        draws = [(512, draw, head) for head in ("warm", "fresh") for draw in range(1, 5) if (draw + 1) * 512 <= available]
        found += [
            {"study": "estimates", "task": task, "head": head, "examples": n, "draw": draw, "flips": flips, "seed": seed}
            for n, draw, head in growth + heads + draws
        ]
    return sorted(found, key=lambda c: (c["examples"] > 2048, c["examples"] > 8192))


if __name__ == "__main__":
    tasks = sys.argv[2:] or ["rte", "mrpc", "stsb", "sst2", "cola", "qnli", "mnli", "qqp"]
    print(run_study(run, configurations(tasks), Path(sys.argv[1])))
