"""What all figures have in common."""

import os
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from enl_detectron2.utils.files import whole_file
from enl_detectron2.utils.text import one_line

LONGEST_NAME = 60  # characters that are drawn of a model's or a class's name

# A decorator of functions that draw: names are drawn as they are. With two dollar signs in them,
# matplotlib would read formulas of TeX, and end at those that aren't any.
plain_text = matplotlib.rc_context({"text.parse_math": False})


def shortened(name: str) -> str:
    """A name as it is drawn: on one line, and not longer than there is room for."""
    return one_line(name, LONGEST_NAME)


def save_figure(figure: Figure, path: str | os.PathLike, *, dpi: int = 100) -> None:
    """Writes a picture, whole or not at all.

    Args:
        figure: what to draw.
        path: its suffix says its format; without one it is PNG.
        dpi: pixels for an inch.

    Raises:
        ValueError: if matplotlib doesn't have the format; lists those it has.
        FileNotWritten: (an OSError) if the file can't be written.
    """
    with whole_file(path) as file:
        figure.savefig(file, format=Path(path).suffix[1:] or "png", dpi=dpi)
