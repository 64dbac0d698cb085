"""Speed of the package as ratios against a named peer, timed in turn in the same run: ``make bench``."""

import time
from collections.abc import Callable
from functools import partial

import numpy as np
import peft
import torch
from scipy import integrate
from sklearn.linear_model import LinearRegression
from sklearn.metrics import r2_score
from torch.profiler import ProfilerActivity, profile

from companion import data
from companion.gradients import accumulator_bytes, gradient_spectra
from companion.kstar import paper_tasks
from companion.marchenko_pastur import MarchenkoPastur
from companion.reduced_rank import rank_sweep

ROUNDS = 5
TARGETS = ("query", "value")


def compare(name: str, ours: Callable[[], object], peer_name: str, peer: Callable[[], object]) -> None:
    """Alternate the two, and print the medians and their ratio (below 1: ours is faster)."""
    ours(), peer()  # warm up
    times = np.array([[_seconds(ours), _seconds(peer)] for _ in range(ROUNDS)])
    mine, theirs = np.median(times, axis=0)
    low, high = np.min(times[:, 0] / times[:, 1]), np.max(times[:, 0] / times[:, 1])
    print(f"{name:44s} {mine:8.4f} s   {peer_name:44s} {theirs:8.3f} s   ratio {mine / theirs:.2g} ({low:.2g} … {high:.2g})")


def _seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def gradients() -> None:
    """Against autograd on the weights: one plain gradient, and one backward pass for each sign-flipped mean."""
    model, tokenizer = data.load_model("minilm"), data.load_tokenizer("minilm")
    batches = list(data.make_dataloader(data.sample(data.load_task("qnli-mini"), 64, seed=0), tokenizer))
    weights = [p for name, p in model.named_parameters() if name.endswith(tuple(f"{t}.weight" for t in TARGETS))]

    def autograd(passes: int) -> None:
        model.requires_grad_(False)
        for weight in weights:
            weight.requires_grad_(True)
        for _ in range(passes):
            for batch in batches:
                torch.autograd.grad(model(**batch).loss, weights)
        for weight in weights:
            torch.linalg.svdvals(weight.double())

    def step() -> None:
        model.requires_grad_(True)
        for batch in batches:
            torch.autograd.grad(model(**batch).loss, list(model.parameters()), allow_unused=True)

    def ours(flips: int) -> Callable[[], object]:
        return lambda: gradient_spectra(model, batches, TARGETS, flips=flips)

    compare("spectra, no flips", ours(0), "autograd on the targets + svdvals", lambda: autograd(1))
    compare("spectra and 9 flips", ours(9), "autograd, one pass a flip + svdvals", lambda: autograd(10))
    compare("spectra and 9 flips", ours(9), "one full gradient of all weights", step)


def adapted(model: torch.nn.Module, **settings: object) -> peft.PeftModel:
    """With fresh LoRA adapters on the targets."""
    config = peft.LoraConfig(r=8, target_modules=list(TARGETS), task_type="SEQ_CLS", **settings)
    return peft.get_peft_model(model, config)


def eva() -> None:
    """Against PEFT's own data-driven ranks: EVA reads activations of the same batches until its directions settle."""
    tokenizer = data.load_tokenizer("minilm")
    batches = list(data.make_dataloader(data.sample(data.load_task("qnli-mini"), 64, seed=0), tokenizer))
    unlabelled = [{key: value for key, value in batch.items() if key != "labels"} for batch in batches]
    model = data.load_model("minilm")
    for rho in (1.0, 2.0):
        settings = {"init_lora_weights": "eva", "eva_config": peft.EvaConfig(rho=rho, use_label_mask=False)}
        waiting = adapted(data.load_model("minilm"), **settings)
        theirs = partial(peft.initialize_lora_eva_weights, waiting, unlabelled, show_progress_bar=False)
        ours = partial(gradient_spectra, model, batches, TARGETS)
        compare("spectra and 9 flips", ours, f"EVA on the same batches, rho = {rho:g}", theirs)


def memory() -> None:
    """Peak of torch's CPU allocator above the model, one batch of 64 texts of 128 tokens, against one LoRA step."""
    model, lora = data.load_model("minilm"), adapted(data.load_model("minilm"))
    optimizer = torch.optim.AdamW(p for p in lora.parameters() if p.requires_grad)
    ids = torch.randint(1000, 20000, (64, 128), generator=torch.Generator().manual_seed(0))
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": torch.arange(64) % 2}

    def step() -> None:
        lora(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    for sketch in (None, 4):
        ours = peak_bytes(partial(gradient_spectra, model, [batch], TARGETS, sketch=sketch))
        held = accumulator_bytes(model, TARGETS, sketch=sketch)
        for name, training in (("dropout on", True), ("dropout off", False)):
            theirs = peak_bytes(lora.train(training) and step)
            print(
                f"peak memory, 9 flips, sketch={sketch}: {ours / 2**20:.0f} MiB, of which sums {held / 2**20:.0f}   "
                f"LoRA step, {name}: {theirs / 2**20:.0f} MiB   ratio {ours / theirs:.2g}"
            )


def peak_bytes(call: Callable[[], object]) -> int:
    """Largest sum of the tensors alive on the CPU during a call that were made in it."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        call()
    events = record.profiler.kineto_results.events()
    events = sorted((event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]")
    return int(np.max(np.cumsum([size for _, size in events]), initial=0))


def sketches() -> None:
    """Against keeping the whole matrices: one wide layer, 2048 features, 256 tokens in 32 examples."""
    layer = torch.nn.Sequential(torch.nn.Linear(2048, 2048))
    batches = [torch.randn(16, 8, 2048, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1)]
    loss = lambda model, batch: (model(batch) * batch.roll(1, -1)).tanh().mean()  # noqa: E731
    whole, thin = (partial(gradient_spectra, layer, batches, ["0"], loss, sketch=sketch) for sketch in (None, 16))
    compare("sketch of 16 values, 2048 x 2048, 9 flips", thin, "whole matrices and their svdvals", whole)
    sizes = [peak_bytes(call) / 2**20 for call in (thin, whole)]
    print(f"{'':44s} peak {sizes[0]:.0f} MiB against {sizes[1]:.0f} MiB")


def law() -> None:
    """Against scipy's adaptive quadrature of the density."""
    law = MarchenkoPastur(0.5)
    points = np.linspace(*law.support, 200)
    quadrature = lambda: [integrate.quad(law.pdf, law.support[0], x)[0] for x in points]  # noqa: E731
    compare("Marchenko-Pastur cdf at 200 points", lambda: law.cdf(points), "scipy.integrate.quad", quadrature)
    draws = np.random.default_rng(0)
    matrix = lambda: np.linalg.eigvalsh((x := draws.standard_normal((500, 1000))) @ x.T / 1000)  # noqa: E731
    compare("500 independent draws from the law", lambda: law.rvs(500, draws), "numpy eigvalsh of a 500 x 1000 matrix", matrix)


def rank_sweeps() -> None:
    """P1's ten tasks, R² and excess risk of all 33 ranks, data in memory: against scikit-learn, a data set and a rank at a time.

    One of the batches of ten replicates in which `reproduce_tables` works; 200 replicates are twenty of them for both sides.
    """
    rng, batches = np.random.default_rng(0), []
    for _, task in paper_tasks():
        x, y, w = task.sample(rng, size=10)
        batches.append((x, y, w, *task.sample(rng, size=10, weights=w, n_samples=1000)[:2]))

    def ours() -> np.ndarray:
        sweeps = [rank_sweep(x, y, test=(a, b), weights=w) for x, y, w, a, b in batches]
        return np.array([(sweep.r2, sweep.excess_risk) for sweep in sweeps])  # (tasks, 2, replicates, ranks)

    def theirs() -> np.ndarray:
        return np.array([np.transpose([one(*sample) for sample in zip(*batch, strict=True)], (1, 0, 2)) for batch in batches])

    def one(x: np.ndarray, y: np.ndarray, w: np.ndarray, a: np.ndarray, b: np.ndarray) -> list[list[float]]:
        left, s, right = np.linalg.svd(LinearRegression(fit_intercept=False).fit(x, y).coef_.T, full_matrices=False)
        cut = [(left[:, :r] * s[:r]) @ right[:r] for r in range(len(s) + 1)]
        return [[r2_score(b, a @ v) for v in cut], [float(np.sum((v - w) ** 2)) for v in cut]]

    difference = float(np.max(np.abs(ours() - theirs())))
    if difference > 1e-10:
        raise AssertionError(f"the two differ by {difference:.1e}")
    compare("10 tasks, 10 replicates, 33 ranks", ours, "scikit-learn, rank by rank (target ratio 0.05)", theirs)
    print(f"{'':44s} largest difference {difference:.1e}")


if __name__ == "__main__":
    law()
    rank_sweeps()
    gradients()
    eva()
    memory()
    sketches()
