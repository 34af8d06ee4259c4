"""Colours that colour-blind people tell apart too: Okabe and Ito's palette."""

TRUTH_COLOUR = "#56B4E9"  # sky blue
MODEL_COLOURS = ("#E69F00", "#009E73", "#CC79A7", "#D55E00", "#0072B2", "#F0E442")
MODEL_MARKERS = ("o", "s", "^", "D", "v", "P")  # beside the colour, for those who see none
