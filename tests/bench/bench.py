"""Speed of the package as ratios against a named peer, timed in turn in the same run: ``make bench``."""

import time
from collections.abc import Callable

import numpy as np
import torch
from scipy import integrate

from companion import data
from companion.gradients import gradient_spectra
from companion.marchenko_pastur import MarchenkoPastur

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


def law() -> None:
    """Against scipy's adaptive quadrature of the density."""
    law = MarchenkoPastur(0.5)
    points = np.linspace(*law.support, 200)
    quadrature = lambda: [integrate.quad(law.pdf, law.support[0], x)[0] for x in points]  # noqa: E731
    compare("Marchenko-Pastur cdf at 200 points", lambda: law.cdf(points), "scipy.integrate.quad", quadrature)
    draws = np.random.default_rng(0)
    matrix = lambda: np.linalg.eigvalsh((x := draws.standard_normal((500, 1000))) @ x.T / 1000)  # noqa: E731
    compare("500 independent draws from the law", lambda: law.rvs(500, draws), "numpy eigvalsh of a 500 x 1000 matrix", matrix)


if __name__ == "__main__":
    law()
    gradients()
