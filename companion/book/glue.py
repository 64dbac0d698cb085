"""Put a value computed in a chapter into its prose, with or without the book's builder installed."""

from __future__ import annotations

import numpy as np

PREFIX = "application/papermill.record/"


def glue(name: str, value: object) -> None:
    """Store a value in the notebook under a name, for ``{glue:text}`name:.3f` `` in the text of the book.

    It shows nothing where it is called, so the cell should also print the value: a role is not rendered on Colab.

    Parameters
    ----------
    name : str
        Name of the value, unique in the book.
    value : object
        What to insert; NumPy scalars become Python numbers, so that a format such as ``:.3f`` applies. Floats are rounded to
        nine digits: the last ones differ from one processor to the next, and compared cells should not.
    """
    from IPython.core.formatters import format_display_data
    from IPython.display import display

    value = value.item() if isinstance(value, np.generic) else value
    data, metadata = format_display_data(float(f"{value:.9g}") if isinstance(value, float) else value)
    metadata["scrapbook"] = {"name": name, "mime_prefix": PREFIX}
    display({PREFIX + mime: content for mime, content in data.items()}, metadata=metadata, raw=True)
