"""What all figures have in common."""

import os
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from enl_detectron2.utils.text import one_line

LONGEST_NAME = 60  # characters that are drawn of a model's or a class's name

# A decorator of functions that draw: names are drawn as they are. With two dollar signs in them,
# matplotlib would read formulas of TeX, and end at those that aren't any.
plain_text = matplotlib.rc_context({"text.parse_math": False})


def shortened(name: str) -> str:
    """A name as it is drawn: on one line, and not longer than there is room for."""
    return one_line(name, LONGEST_NAME)


def save_figure(figure: Figure, path: str | os.PathLike, *, dpi: int = 100) -> None:
    """Writes a picture in the format of its suffix, or PNG, to a file of exactly this name.

    matplotlib itself adds a suffix where there is none, and writes over what has that name.
    """
    figure.savefig(path, format=Path(path).suffix[1:] or "png", dpi=dpi)
