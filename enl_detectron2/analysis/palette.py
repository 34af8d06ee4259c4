"""What pictures have in common: Okabe and Ito's colours for colour-blind people, what is small."""

TRUTH_COLOUR = "#56B4E9"  # sky blue
MODEL_COLOURS = ("#E69F00", "#009E73", "#CC79A7", "#D55E00", "#0072B2", "#F0E442")
MODEL_MARKERS = ("o", "s", "^", "D", "v", "P")  # beside the colour, for those who see none
SMALL_SIDE = 32  # pixels; an object is small below it, as COCO has it
