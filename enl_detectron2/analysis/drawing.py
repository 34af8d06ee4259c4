"""What all figures have in common."""

import matplotlib

from enl_detectron2.utils.text import one_line

LONGEST_NAME = 60  # characters that are drawn of a model's or a class's name

# A decorator of functions that draw: names are drawn as they are. With two dollar signs in them,
# matplotlib would read formulas of TeX, and end at those that aren't any.
plain_text = matplotlib.rc_context({"text.parse_math": False})


def shortened(name: str) -> str:
    """A name as it is drawn: on one line, and not longer than there is room for."""
    return one_line(name, LONGEST_NAME)
