"""The logo and the picture of the landing page, from a seed and the package: `python -m companion.book.artwork`."""

from __future__ import annotations

import math
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from companion.book import plotting
from companion.marchenko_pastur import MarchenkoPastur, spike_threshold, spiked_singular_value

FOLDER = Path("book/_static")
# Both colours have a contrast of at least 3 with white and with the dark theme's background.
BULK, SPIKE = "#2f86c1", "#d9651a"


def logo(ratio: float = 0.25) -> str:
    """The Marchenko-Pastur density and one spike to the right of its edge, as SVG text."""
    law = MarchenkoPastur(ratio)
    low, high = law.support
    points = []
    for step in range(61):
        x = low + (high - low) * (1 - math.cos(math.pi * step / 60)) / 2  # denser at both edges
        points.append(f"{4 + 38 * (x - low) / (high - low):.2f} {54 - 45 * law.pdf(x):.2f}")
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 64 64" role="img" '
        'aria-label="A Marchenko-Pastur density and one spike beyond its edge">\n'
        f'  <path d="M{" L".join(points)} Z" fill="{BULK}" fill-opacity="0.3" stroke="{BULK}" stroke-width="3" '
        'stroke-linejoin="round"/>\n'
        f'  <path d="M54 54 V24" stroke="{SPIKE}" stroke-width="4" stroke-linecap="round"/>\n'
        f'  <circle cx="54" cy="19" r="5" fill="{SPIKE}"/>\n'
        '  <path d="M2 56.5 H62" stroke="#7d8590" stroke-width="2" stroke-linecap="round"/>\n'
        "</svg>\n"
    )


def bulk_and_spikes(shape: tuple[int, int] = (1000, 3000), seed: int = 0, ax: Axes | None = None) -> Axes:
    """Eigenvalues of noise plus three planted directions: two stand outside the bulk, one is lost in it.

    Parameters
    ----------
    shape : tuple of int
        ``(m, n)`` of the matrix, ``m <= n``, with noise of standard deviation 1.
    seed : int
        Seed of the noise and of the planted directions.
    ax : Axes, optional
        Where to draw; a new figure if not given.

    Returns
    -------
    Axes
    """
    m, n = shape
    rng = np.random.default_rng(seed)
    planted = spike_threshold(shape, 1.0) * np.array([2.2, 1.6, 0.6])
    left, right = (np.linalg.qr(rng.standard_normal((size, planted.size)))[0] for size in shape)
    values = np.linalg.svd((left * planted) @ right.T + rng.standard_normal(shape), compute_uv=False) ** 2 / n
    predicted = spiked_singular_value(planted[:2], shape, 1.0) ** 2 / n
    law = MarchenkoPastur(m / n)

    ax = ax or plt.subplots()[1]
    grid = np.linspace(*law.support, 400)
    outside = values[values > law.support[1] * 1.05]
    ax.hist(values, bins=np.arange(0, law.support[1] + 0.2, 0.06), density=True, color=plotting.SKY, label="measured")
    ax.plot(outside, np.full(outside.size, 0.02), "o", color=plotting.SKY, clip_on=False)
    ax.plot(grid, law.pdf(grid), color=plotting.BLUE, label="Marchenko–Pastur law")
    for index, value in enumerate(predicted):
        ax.plot([value, value], [0, 0.28], "--", color=plotting.VERMILLION, label=None if index else "predicted spikes")
    ax.set(xlabel="eigenvalue (units of the noise variance)", ylabel="density")
    ax.legend()
    return ax


def main() -> None:
    """Write both pictures."""
    (FOLDER / "logo.svg").write_text(logo(), "utf-8")
    plotting.use_style()
    figure = bulk_and_spikes().figure
    figure.savefig(FOLDER / "bulk-and-spikes.svg", metadata={"Date": None})
    print(f"wrote logo.svg and bulk-and-spikes.svg to {FOLDER}")


if __name__ == "__main__":
    main()
