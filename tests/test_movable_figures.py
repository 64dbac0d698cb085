"""The figures that readers move: the formulas of their scripts equal the package's, and the library is the recorded one.

The scripts run in the Node that comes with playwright, so these tests need neither a browser nor a built site;
`tests/pages/check_movable.py` moves the figures on the site.
"""

import hashlib
import json
import re
import subprocess
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from sphinx.errors import ExtensionError

from companion import marchenko_pastur as mp
from companion import scalar_flow, tanh_law
from companion.book import site

ROOT = Path(__file__).parents[1]
STATIC = ROOT / "book" / "_static"
OWN = sorted((STATIC / "movable").glob("*.js"))
NODE = files("playwright").joinpath("driver", "node")
RELATIVE = 1e-12

EPS = [1e-8, 1e-4, 1e-2, 0.1, 1 / np.sqrt(3), 1.0, 3.0, 10.0]
LAMBDAS = [0.1, 0.1875, 0.5, 1.5, 3.0]
TIMES = [0.0, 1e-6, 0.01, 0.3, 1.0, 2.5, 7.0, 40.0, 300.0]
FORMS = ["theorem", "abstract", "appendix", "openreview"]
SHAPES = [(22, 1000), (100, 1000), (250, 1000), (999, 1000), (1000, 1000), (1000, 999), (1000, 400), (1000, 177)]
THRESHOLDS = [0.0, 0.5, 0.999, 1.0, 1.001, 1.5, 3.0]


def evaluate(script, function, *arguments):
    """What a JavaScript function makes of the arguments, in the company of a script of the site."""
    program = f"{(STATIC / 'movable' / script).read_text('utf-8')}\n"
    program += f"process.stdout.write(JSON.stringify(({function})(...{json.dumps(arguments)})))"
    run = subprocess.run([str(NODE), "-"], input=program, capture_output=True, text=True, check=True)
    return json.loads(run.stdout)


def assert_equal(found, expected):
    np.testing.assert_allclose(np.array(found, dtype=float), expected, rtol=RELATIVE, atol=0)


def on_grid(expression):
    """A function of strengths, scales and times that evaluates an expression at every combination."""
    return f"(ls, es, ts) => ls.map((l) => es.map((e) => ts.map((t) => {expression})))"


def test_scalar_law():
    found = evaluate("scalar-law.js", on_grid("scalarLaw.amplitude(t, l, e * e)"), LAMBDAS, EPS, TIMES)
    expected = [[scalar_flow.scalar_flow(TIMES, lam, eps * eps) for eps in EPS] for lam in LAMBDAS]
    assert_equal(found, expected)


@pytest.mark.parametrize("fraction", [0.01, 0.5, 0.97])
def test_activation_times(fraction):
    call = on_grid(f"scalarLaw.activationTime(l, e * e, {fraction})")
    found = evaluate("scalar-law.js", call, LAMBDAS, EPS, [0])
    expected = [scalar_flow.activation_times(LAMBDAS, np.full(len(LAMBDAS), eps * eps), fraction) for eps in EPS]
    assert_equal(np.squeeze(found), np.transpose(expected))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("one_sided", [False, True])
def test_printed_laws(form, one_sided):
    call = on_grid(f"scalarLaw.printed(t, l, e, '{form}', {str(one_sided).lower()})")
    found = np.array(evaluate("scalar-law.js", call, LAMBDAS, EPS, TIMES))
    for j, eps in enumerate(EPS):
        shifts = np.full(len(LAMBDAS), np.log(eps)) if form in ("theorem", "appendix") else None
        expected = tanh_law.tanh_squared(TIMES, LAMBDAS, form, shifts, one_sided=one_sided)
        # Near its zero the square of the angle has no relative accuracy.
        np.testing.assert_allclose(found[:, j], expected.T, rtol=RELATIVE, atol=1e-24)


def test_zeros_of_printed_laws():
    for form in FORMS:
        call = on_grid(f"scalarLaw.printed(scalarLaw.printedZero(l, e, '{form}'), l, e, '{form}')")
        assert np.max(np.abs(evaluate("scalar-law.js", call, LAMBDAS, EPS, [0]))) < 1e-24


def test_printed_half_times_and_rise_times():
    found = evaluate("scalar-law.js", on_grid("scalarLaw.printedHalfTime(l, e)"), LAMBDAS, EPS, [0])
    assert_equal(np.squeeze(found), np.transpose([tanh_law.tanh_activation_times(LAMBDAS, eps) for eps in EPS]))
    rise = evaluate("scalar-law.js", "(ls) => ls.map(scalarLaw.riseTime)", LAMBDAS)
    spans = [np.subtract(*(scalar_flow.activation_times(LAMBDAS, np.full(5, 1e-20), x) for x in (0.9, 0.1)))]
    np.testing.assert_allclose(rise, spans[0], rtol=1e-9)


def test_strengths():
    assert_equal(evaluate("scalar-law.js", "scalarLaw.strengths", 3, 0.5, 5), [3, 1.5, 0.75, 0.375, 0.1875])


@pytest.mark.parametrize("shape", SHAPES)
def test_noise_spectrum(shape):
    ratio = shape[0] / shape[1]
    law = mp.MarchenkoPastur(ratio)
    low, high = law.support
    assert_equal(evaluate("spiked-law.js", "spikedLaw.support", ratio), np.sqrt([low, high]))
    assert_equal(evaluate("spiked-law.js", "spikedLaw.atom", ratio), law.atom)
    x = np.linspace(low, high, 41)[1:-1]
    call = "(c, x) => x.map((one) => spikedLaw.density(one, c))"
    assert_equal(evaluate("spiked-law.js", call, ratio, x.tolist()), law.pdf(x))
    s = np.sqrt(x)
    call = "(c, s) => s.map((one) => spikedLaw.singularDensity(one, c))"
    np.testing.assert_allclose(evaluate("spiked-law.js", call, ratio, s.tolist()), 2 * s * law.pdf(x), rtol=1e-10)


@pytest.mark.parametrize("shape", SHAPES)
def test_density_has_its_mass(shape):
    ratio = shape[0] / shape[1]
    low, high = evaluate("spiked-law.js", "spikedLaw.support", ratio)
    angles = np.linspace(0, np.pi, 2001)
    s = (low + high) / 2 - (high - low) / 2 * np.cos(angles)
    density = evaluate("spiked-law.js", "(c, s) => s.map((one) => spikedLaw.singularDensity(one, c))", ratio, s.tolist())
    assert np.trapezoid(density, s) == pytest.approx(min(1, 1 / ratio), abs=1e-3)


@pytest.mark.parametrize("shape", SHAPES)
def test_spikes(shape):
    ratio, root = shape[0] / shape[1], np.sqrt(shape[1])
    planted = np.array(THRESHOLDS) * mp.spike_threshold(shape, 1.0)
    assert_equal(evaluate("spiked-law.js", "spikedLaw.threshold", ratio), mp.spike_threshold(shape, 1.0) / root)
    call = "(c, s) => s.map((one) => spikedLaw.{}(one, c))"
    units = (planted / root).tolist()
    found = evaluate("spiked-law.js", call.format("observed"), ratio, units)
    assert_equal(found, mp.spiked_singular_value(planted, shape, 1.0) / root)
    found = evaluate("spiked-law.js", call.format("overlaps"), ratio, units)
    np.testing.assert_allclose(np.transpose(found), mp.spiked_overlaps(planted, shape, 1.0), rtol=1e-11, atol=1e-14)


def test_numbers_for_reading():
    numbers = [0, 0.575, 1, 2.5, 37.28, 103.4, -0.3621, 1e-8, 2.3e-5, 99.96, 0.001, 12345]
    expected = ["0", "0.575", "1", "2.5", "37.3", "103", "−0.362", "10⁻⁸", "2.3 × 10⁻⁵", "100", "0.001", "12300"]
    assert evaluate("movable.js", "(xs) => xs.map((x) => movable.say(x))", numbers) == expected


def test_library_is_the_recorded_one():
    folder = STATIC / "uplot"
    recorded = dict(re.findall(r"^(\w{64})  (\S+)$", (folder / "README").read_text("utf-8"), re.MULTILINE))
    found = {hashlib.sha256((folder / name).read_bytes()).hexdigest(): name for name in recorded.values()}
    assert found == recorded and len(found) == 2
    version = re.search(r"uPlot (\S+)", (folder / "README").read_text("utf-8")).group(1)
    assert f"(v{version})" in (folder / "uPlot.iife.min.js").read_text("utf-8")[:100]
    assert "The MIT License" in (folder / "LICENSE").read_text("utf-8")


def test_scripts_are_small_and_ask_nobody():
    assert OWN
    assert sum(path.stat().st_size for name in ("uplot", "movable") for path in (STATIC / name).iterdir()) < 100_000
    for path in OWN:
        assert not re.search(r"https?:|fetch\(|import |XMLHttpRequest", path.read_text("utf-8")), path.name


def test_places_in_the_chapters_are_known():
    """Each figure stands once in the book, with words for readers without the site."""
    places = []
    for path in sorted((ROOT / "book" / "src").rglob("*.md")):
        text = path.read_text("utf-8")
        assert text.count('class="movable"') == len(site.PLACE.findall(text)), path.name
        places += re.findall(site.PLACE.pattern + r"<em>.{40,}</em></div>\n\n", text)
    assert sorted(places) == sorted(site.MOVABLE)


class Page:
    """Stands in for the Sphinx application and collects what a page is to load."""

    def __init__(self, body):
        self.files = []
        site.add_movable_figures(self, "page", "page.html", {"body": body}, None)

    def add_css_file(self, name):
        self.files.append(name)

    def add_js_file(self, name, loading_method):
        assert loading_method == "defer"
        self.files.append(name)


def test_pages_load_what_they_need():
    place = '<p>A</p><div class="movable" data-figure="{}"><em>words</em></div>'
    assert Page("<p>no figure</p>").files == []
    assert Page(place.format("spectrum")).files == [
        "uplot/uPlot.min.css", "movable/movable.css", "uplot/uPlot.iife.min.js",
        "movable/spiked-law.js", "movable/movable.js", "movable/spectrum.js",
    ]  # fmt: skip
    both = Page(place.format("spectrum") + place.format("trajectories")).files
    assert all((STATIC / name).is_file() for name in both)
    assert {path.name for path in OWN} == {Path(name).name for name in both if name.startswith("movable/") and name.endswith("js")}
    with pytest.raises(ExtensionError, match="no movable figure nothing"):
        Page(place.format("nothing"))
