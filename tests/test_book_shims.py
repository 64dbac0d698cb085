"""Settings, glue, figure style and artwork of the book."""

import subprocess
import sys
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from nbclient import NotebookClient
from nbformat import v4

from companion.book import artwork, plotting
from companion.book.settings import book_mode, settings

ROOT = Path(__file__).parents[1]


def run_cells(*sources):
    cells = [v4.new_code_cell(source) for source in sources]
    nb = NotebookClient(v4.new_notebook(cells=cells), kernel_name="python3").execute()
    return [cell.outputs for cell in nb.cells]


@pytest.mark.parametrize(("value", "draws"), [(None, 2), ("", 2), ("light", 2), ("full", 9)])
def test_settings_follow_the_mode(monkeypatch, value, draws):
    monkeypatch.delenv("BOOK_MODE", raising=False)
    if value is not None:
        monkeypatch.setenv("BOOK_MODE", value)
    assert settings(light={"draws": 2}, full={"draws": 9}).draws == draws


def test_unknown_mode_names_the_accepted_ones(monkeypatch):
    monkeypatch.setenv("BOOK_MODE", "fast")
    with pytest.raises(ValueError, match="'fast'; accepted are light and full"):
        book_mode()


@pytest.mark.parametrize("mode", ["light", "full"])
def test_settings_must_have_the_same_names(monkeypatch, mode):
    monkeypatch.setenv("BOOK_MODE", mode)
    with pytest.raises(ValueError, match="only one of them has draws, seed"):
        settings(light={"draws": 2, "size": 1}, full={"seed": 9, "size": 1})


def test_glue_stores_a_plain_number():
    (output,), = run_cells("from companion.book.glue import glue; import numpy as np; glue('top', np.float64(1.5))")
    assert output.data == {"application/papermill.record/text/plain": "1.5"}
    assert output.metadata["scrapbook"] == {"name": "top", "mime_prefix": "application/papermill.record/"}


def test_figures_in_a_notebook_are_reproducible_svg():
    setup = "import matplotlib.pyplot as plt\nfrom companion.book.plotting import use_style\nuse_style()"
    figure = "plt.plot([1, 2], label='a'); plt.legend(); plt.show()"
    first, second = run_cells(setup, figure)[1], run_cells(setup, figure)[1]
    assert set(first[0].data) == {"image/svg+xml", "text/plain"}
    assert first == second
    assert "dc:date" not in first[0].data["image/svg+xml"]


def test_style_works_before_pyplot_is_imported_and_twice():
    setup = "from companion.book.plotting import use_style\nuse_style(); use_style()"
    assert "image/svg+xml" in run_cells(setup, "import matplotlib.pyplot as plt\nplt.plot([1]); plt.show()")[1][0].data


def test_style_outside_a_notebook_sets_the_parameters_only():
    code = (
        "import sys; from companion.book.plotting import use_style; use_style(); import matplotlib as mpl;"
        "assert mpl.rcParams['figure.facecolor'] == 'white'; assert 'IPython' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_palette_has_contrast_with_white():
    def luminance(colour):
        channels = np.array(mpl.colors.to_rgb(colour))
        linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
        return linear @ (0.2126, 0.7152, 0.0722)

    levels = [luminance(colour) for colour in plotting.PALETTE]
    assert len(set(plotting.PALETTE)) == len(levels) >= 6
    assert all(1.05 / (level + 0.05) > 2 for level in levels)


def test_logo_in_the_book_is_the_drawn_one():
    assert (ROOT / "book" / "_static" / "logo.svg").read_text("utf-8") == artwork.logo()


def test_picture_shows_two_spikes_beyond_the_bulk():
    axes = mpl.figure.Figure().subplots()
    assert artwork.bulk_and_spikes(shape=(300, 900), ax=axes) is axes
    outside = axes.lines[0].get_xdata()
    predicted = [line.get_xdata()[0] for line in axes.lines[2:]]
    assert outside == pytest.approx(predicted, rel=0.06)
    assert axes.get_xlabel() and axes.get_ylabel()
