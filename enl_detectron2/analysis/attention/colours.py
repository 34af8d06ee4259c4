"""The colours of attention maps: zero is transparent, and what is larger is less so.

Colour-blind people tell orange from blue; these two are seen on black and on white photographs.
"""

import numpy as np
from matplotlib.colors import ListedColormap, to_rgb

ABOVE_ZERO = "#E69F00"  # orange
BELOW_ZERO = "#1E90FF"  # blue
MARKER = "#009E73"  # bluish green, of Okabe and Ito's palette


def colour_map(signed: bool, opacity: float = 1.0) -> ListedColormap:
    """Of values from −limit, if ``signed``, or 0 to limit, whose size has this opacity."""
    # An odd number if signed, so that zero has a colour of its own.
    values = np.linspace(-1, 1, 511) if signed else np.linspace(0, 1, 256)
    hues = np.where(values[:, None] < 0, to_rgb(BELOW_ZERO), to_rgb(ABOVE_ZERO))
    return ListedColormap(np.column_stack([hues, opacity * np.abs(values)]), "attention")
