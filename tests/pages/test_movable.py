"""The numbers of the figures that readers move, as the site shows them, against the package."""

from pathlib import Path

import numpy as np
import pytest
from check_movable import SAID
from check_rendering import OpenPage, opened
from playwright.sync_api import Browser
from site_files import reading_pages

from companion import marchenko_pastur as mp
from companion import scalar_flow, tanh_law

SHOWN = 0.006  # relative: three digits are shown
NUMBERS = """(panel) => [...panel.querySelectorAll("tbody tr")].map((row) =>
  [...row.cells].slice(1).map((cell) => Number(cell.textContent.replace("−", "-"))))"""


def moved(result: OpenPage, name: str, **positions: float) -> np.ndarray:
    """The table of a figure after its sliders were put somewhere."""
    for slider, value in positions.items():
        result.page.locator(f"#movable-{name}-{slider}").fill(str(value))
    result.page.evaluate(SAID)
    return np.array(result.page.locator(f".movable[data-figure={name}] .movable-panel").evaluate(NUMBERS))


def page_of(site: Path, name: str) -> str:
    """The page that has a figure."""
    pages = [page for page in reading_pages(site) if f'data-figure="{name}"' in (site / page).read_text("utf-8")]
    assert len(pages) == 1, f"{name} stands on {pages}"
    return pages[0]


@pytest.mark.parametrize(("exponent", "ratio"), [(-2, 0.64), (-8, 0.5), (-0.24, 0.975), (1, 1)])
def test_half_times(browser: Browser, base: str, site: Path, exponent: float, ratio: float) -> None:
    """Strengths, half-times of the scalar law and printed half-times."""
    with opened(browser, base, page_of(site, "trajectories")) as result:
        shown = moved(result, "trajectories", eps=exponent, ratio=ratio)
    strengths, eps = 3 * ratio ** np.arange(5), 10.0**exponent
    exact = scalar_flow.activation_times(strengths, np.full(5, eps**2))
    expected = np.transpose([strengths, exact, tanh_law.tanh_activation_times(strengths, eps)])
    np.testing.assert_allclose(shown, expected, rtol=SHOWN)


@pytest.mark.parametrize(("shape", "strength"), [((250, 1000), 1.5), ((1000, 1000), 3), ((4000, 1000), 0.5)])
def test_spectrum(browser: Browser, base: str, site: Path, shape: tuple[int, int], strength: float) -> None:
    """Edges of the noise, threshold, planted and observed value, as singular values and as eigenvalues."""
    ratio = shape[0] / shape[1]
    with opened(browser, base, page_of(site, "spectrum")) as result:
        shown = moved(result, "spectrum", shape=np.log2(ratio), strength=strength)
    threshold = mp.spike_threshold(shape, 1.0)
    observed = mp.spiked_singular_value(strength * threshold, shape, 1.0)
    edges = np.sqrt(mp.MarchenkoPastur(ratio).support)
    expected = np.array([*edges, *(np.array([threshold, strength * threshold, observed]) / np.sqrt(shape[1]))])
    np.testing.assert_allclose(shown, np.transpose([expected, expected**2]), rtol=SHOWN)
