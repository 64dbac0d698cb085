"""Settings, glue, figure style and artwork of the book."""

import io
import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

import matplotlib as mpl
import numpy as np
import pytest
from nbclient import NotebookClient
from nbformat import v4

from companion.book import artwork, plotting
from companion.book.settings import book_mode, settings
from companion.book.svg import compact

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


def drawing(fonttype):
    with mpl.rc_context({"svg.fonttype": fonttype, "svg.hashsalt": "test"}):
        figure = mpl.figure.Figure()
        axes = figure.subplots()
        axes.plot([0, 1, 2], [0.001234567, 1, 0.5], "o--", label="$\\sigma^2$")
        axes.set(xlabel="length (m)", title="a  title's signs: < & >")
        axes.legend()
        figure.savefig(buffer := io.StringIO(), format="svg", metadata={"Date": None})
    return buffer.getvalue()


def test_compact_svg_is_smaller_and_draws_the_same_elements():
    before = drawing("path")
    after = compact(before)
    trees = [ElementTree.fromstring(svg) for svg in (before, after)]
    drawn = "{http://www.w3.org/2000/svg}"
    tags = [Counter(element.tag for element in tree.iter() if element.tag.startswith(drawn)) for tree in trees]
    assert tags[0] - tags[1] == {f"{drawn}metadata": 1}
    assert tags[1] - tags[0] == {}
    assert len(json.dumps(after)) < 0.75 * len(json.dumps(before))
    assert compact(after) == after


def test_compact_svg_keeps_every_coordinate_within_a_hundredth_of_a_point():
    number = re.compile(r"-?\d+\.?\d*(?:e-?\d+)?")

    def coordinates(svg):
        paths = [element.get("d") for element in ElementTree.fromstring(svg).iter() if element.get("d")]
        return [float(value) for path in paths for value in number.findall(path)]

    before = drawing("path")
    assert np.allclose(coordinates(compact(before)), coordinates(before), rtol=0, atol=0.0051)


def test_every_reference_of_a_compact_svg_exists():
    svg = compact(drawing("path"))
    defined = set(re.findall(r" id='([^']+)'", svg))
    assert set(re.findall(r"#([\w-]+)[')]", svg)) - set(re.findall(r":#([0-9a-f]{6})\b", svg)) <= defined


def test_compact_leaves_written_text_alone():
    svg = drawing("none")
    assert "<text" in svg
    assert compact(svg) == svg


def test_logo_in_the_book_is_the_drawn_one():
    assert (ROOT / "book" / "_static" / "logo.svg").read_text("utf-8") == artwork.logo()


def test_picture_shows_two_spikes_beyond_the_bulk():
    axes = mpl.figure.Figure().subplots()
    assert artwork.bulk_and_spikes(shape=(300, 900), ax=axes) is axes
    outside = axes.lines[0].get_xdata()
    predicted = [line.get_xdata()[0] for line in axes.lines[2:]]
    assert outside == pytest.approx(predicted, rel=0.06)
    assert axes.get_xlabel() and axes.get_ylabel()


def test_glued_floats_do_not_carry_the_last_digits_of_a_processor():
    cell = "from companion.book.glue import glue; glue('x', 2.50486002477588); glue('n', 3)"
    values = [next(iter(output["data"].values())) for output in run_cells(cell)[0]]
    assert values == ["2.50486002", "3"]
