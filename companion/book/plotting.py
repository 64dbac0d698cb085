"""The look of the book's figures: one style, and SVG that is the same on every run."""

from __future__ import annotations

import sys

import matplotlib as mpl
from cycler import cycler
from matplotlib.axes import Axes

# Okabe and Ito's palette for all forms of colour vision, without its yellow, which is too pale for a line on white.
BLUE, ORANGE, GREEN, VERMILLION, PURPLE, SKY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9"
GREY = "#767676"
PALETTE = (BLUE, VERMILLION, GREEN, ORANGE, PURPLE, SKY)

STYLE = {
    "axes.axisbelow": True,
    "axes.edgecolor": "#444444",
    "axes.grid": True,
    "axes.labelsize": 11,
    "axes.prop_cycle": cycler(color=PALETTE),
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 11,
    "figure.constrained_layout.use": True,
    "figure.facecolor": "white",
    "figure.figsize": (6.4, 3.6),
    "font.size": 11,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.8,
    "legend.fontsize": 9.5,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "savefig.facecolor": "white",
    "svg.fonttype": "path",
    "svg.hashsalt": "spectral-lora-companion",
    "xtick.labelsize": 9.5,
    "ytick.labelsize": 9.5,
}


def use_style() -> None:
    """Set the book's figure style; in a notebook, also let figures be stored as SVG without a date.

    Figures have an opaque white background, so that they read in every notebook viewer; the book's stylesheet turns
    them dark where the reader chose the dark theme.
    """
    mpl.rcParams.update(STYLE)
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if shell is not None and hasattr(shell, "kernel"):
        from matplotlib_inline.config import InlineBackend

        inline = InlineBackend.instance(parent=shell)
        inline.print_figure_kwargs = {"bbox_inches": "tight", "metadata": {"Date": None}}
        inline.figure_formats = {"svg"}


def say_missing(ax: Axes) -> Axes:
    """An empty panel that says that its record holds no run yet."""
    ax.set_axis_off()
    ax.text(0.5, 0.5, "no runs recorded yet", transform=ax.transAxes, ha="center", va="center", color=GREY)
    return ax
