"""Draws docs/enl.png: where the efficient non-local (ENL) blocks sit, and what one computes.

Left, the stream: the pyramid's top-down path, coarse to fine. The merged maps of strides 32, 16
and 8 pass through a block before the output convolution or the next level reads them.
Right, the block: the D×D context, the position term and the residual; the small line in a box is
the shape of what leaves it.

python docs/make_diagram.py
"""

import io
import pathlib

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import Circle, FancyArrowPatch, FancyBboxPatch, Polygon
from matplotlib.path import Path
from PIL import Image

WIDTH, HEIGHT = 160, 72  # one unit is 10 px of a picture 1600 px wide
DPI = 150  # 2400 px wide, for sharp letters on dense screens
LARGE, MEDIUM, SMALL = 21, 17, 14.5  # points

# Okabe and Ito's colours, each with a tint to fill boxes with.
INK = "#222222"
GREY, GREY_TINT = "#666666", "#EEEEEE"
BLUE, BLUE_TINT = "#0072B2", "#DCEDF7"
GREEN, GREEN_TINT = "#009E73", "#D9F2EA"
ORANGE, ORANGE_TINT, ORANGE_HINT = "#E69F00", "#FCE9C2", "#FEF8EB"
VERMILION, VERMILION_TINT = "#D55E00", "#FBE3D3"
PURPLE, PURPLE_TINT = "#CC79A7", "#F8E6EF"

# Formulas. A map of N positions is a matrix with one column for each of them.
CONTEXT = r"\hat{\phi}\,g^\mathsf{T}"
CONTENT = rf"\theta^\mathsf{{T}}({CONTEXT})"
AFFINITY_FIRST = r"(\theta^\mathsf{T}\hat{\phi})\,g^\mathsf{T}"
POSITION = r"\hat{E}\,(\hat{E}{}^\mathsf{T}g^\mathsf{T})"


def text(ax: Axes, x, y, label, size=SMALL, **style):
    ax.text(x, y, label, size=size, **{"color": INK, "ha": "center", "va": "center"} | style)


def heading(ax: Axes, x, title, summary_x, summary):
    text(ax, x, 68, title, LARGE, ha="left", va="baseline", weight="bold")
    text(ax, summary_x, 68, summary, MEDIUM, ha="left", va="baseline")


def box(ax: Axes, x, y, width, label, below="", edge=GREY, fill="white", size=MEDIUM):
    """A rounded box around (x, y), with a smaller line below its label or a lower one without."""
    height = 7.2 if below else 4.8
    corner = (x - width / 2, y - height / 2)
    shape = "round,pad=0,rounding_size=0.9"
    patch = FancyBboxPatch(corner, width, height, shape, fc=fill, ec=edge, lw=1.8, zorder=3)
    ax.add_patch(patch)
    text(ax, x, y + (1.5 if below else -0.1), label, size, zorder=4)
    text(ax, x, y - 1.8, below, zorder=4)


def arrow(ax: Axes, *points, color=INK, width=1.8):
    """A line through the points with its head at the last one."""
    style = "-|>,head_width=0.25,head_length=0.45"
    size = 10 + 4 * width
    patch = FancyArrowPatch(path=Path(points), arrowstyle=style, mutation_scale=size, zorder=2)
    patch.set(color=color, lw=width, joinstyle="miter", capstyle="butt")
    ax.add_patch(patch)


def dot(ax: Axes, x, y, color=INK):
    ax.add_patch(Circle((x, y), 0.65, color=color, lw=0, zorder=3))


def plus(ax: Axes, x, y, color=INK):
    ax.add_patch(Circle((x, y), 1.6, fc="white", ec=color, lw=1.8, zorder=3))
    ax.plot([x - 0.9, x + 0.9], [y, y], color=color, lw=1.8, zorder=4)
    ax.plot([x, x], [y - 0.9, y + 0.9], color=color, lw=1.8, zorder=4)


def draw_stream(ax: Axes):
    bottom_up, lateral, stream, conv, out = 9, 23.5, 37, 53, 66
    rows = {5: 60, 4: 44, 3: 28, 2: 12}
    heading(ax, 2, "The stream", 23.5, "refined first, then read")

    # The pale arrow behind everything.
    right = [(6, 65), (6, 8.5), (9, 8.5)]
    outline = right + [(0, 0.5)] + [(-dx, y) for dx, y in reversed(right)]
    ax.add_patch(Polygon([(stream + dx, y) for dx, y in outline], fc=BLUE_TINT, lw=0, zorder=0))
    text(ax, stream + 7, 63.4, "coarse", ha="left", color=BLUE, weight="bold")
    text(ax, stream + 7, 3, "fine", ha="left", color=BLUE, weight="bold")

    text(ax, bottom_up, 2.6, "image")
    arrow(ax, (bottom_up, 4.2), (bottom_up, rows[2] - 3.6), color=GREY)
    for level, y in rows.items():
        box(ax, bottom_up, y, 14, f"res{level}", f"stride {2**level}", GREY, GREY_TINT)
        arrow(ax, (bottom_up + 7, y), (lateral - 3.5, y))
        box(ax, lateral, y, 7, "1×1", size=SMALL)
        if level == 5:
            arrow(ax, (lateral + 3.5, y), (stream, y), (stream, y - 4.3), color=BLUE, width=3)
        else:
            arrow(ax, (bottom_up, y + 3.6), (bottom_up, rows[level + 1] - 3.6), color=GREY)
            arrow(ax, (lateral + 3.5, y), (stream - 1.6, y))
            plus(ax, stream, y, BLUE)

        if level > 2:
            # The block, and its two readers: the 3×3 convolution and the next level.
            read, finer = y - 10.9, rows[level - 1]
            if level < 5:
                arrow(ax, (stream, y - 1.6), (stream, y - 4.3), color=BLUE, width=3)
            box(ax, stream, y - 6.7, 9, "ENL", edge=ORANGE, fill=ORANGE_TINT)
            arrow(ax, (stream, y - 9.1), (stream, finer + 1.6), color=BLUE, width=3)
            text(ax, stream + 3, (read + finer) / 2 + 0.4, "2×")
            dot(ax, stream, read, BLUE)
            arrow(ax, (stream, read), (conv - 3.5, read))
        else:
            read = y - 6
            arrow(ax, (stream, y - 1.6), (stream, read), (conv - 3.5, read))
        box(ax, conv, read, 7, "3×3", size=SMALL)
        arrow(ax, (conv + 3.5, read), (out - 4, read))
        box(ax, out, read, 8, f"P{level}", edge=GREEN, fill=GREEN_TINT)

    arrow(ax, (out, 51.5), (out, 57.6))
    text(ax, out - 1.2, 54.6, "max-pool", ha="right")
    box(ax, out, 60, 8, "P6", edge=GREEN, fill=GREEN_TINT)


def draw_block(ax: Axes):
    x, split, conv, norm, context, content = 79.5, 88.4, 96, 113.5, 131, 147.5  # columns
    theta, phi, g, position, out, residual, z = 58.5, 48.5, 38.5, 29.5, 20.9, 12.8, 3.2  # rows
    heading(ax, 74.5, "The block", 93.5, "efficient non-local (ENL)")
    sizes = r"$N=H{\cdot}W$,  $D=C/2$"
    text(ax, 157.5, 68, sizes, MEDIUM, ha="right", va="baseline")
    shape = "round,pad=0,rounding_size=1.5"
    frame = FancyBboxPatch((86.3, 9.2), 71.2, 54.8, shape, fc=ORANGE_HINT, ec=ORANGE, lw=1.8)
    ax.add_patch(frame)

    box(ax, x, phi, 10, "$x$", "$C×H×W$", BLUE, BLUE_TINT)
    for y, name in ((theta, r"$\theta$"), (phi, r"$\phi$"), (g, "$g$")):
        arrow(ax, (x + 5, phi), (split, phi), (split, y), (conv - 5, y))
        box(ax, conv, y, 10, f"{name}  1×1", "$D×N$")
    arrow(ax, (split, phi), (split, residual), (content - 1.6, residual))
    dot(ax, split, phi)
    dot(ax, split, g)

    arrow(ax, (conv + 5, phi), (norm - 8.5, phi))
    box(ax, norm, phi, 17, "softmax", "over positions")
    arrow(ax, (norm + 8.5, phi), (context - 5.5, phi))
    text(ax, 123.8, phi + 2.5, r"$\hat{\phi}$", MEDIUM)
    arrow(ax, (conv + 5, g), (context, g), (context, phi - 3.6))
    box(ax, context, phi, 11, f"${CONTEXT}$", "$D×D$", VERMILION, VERMILION_TINT)
    arrow(ax, (context + 5.5, phi), (content - 7.5, phi))
    arrow(ax, (conv + 5, theta), (content, theta), (content, phi + 3.6))
    box(ax, content, phi, 15, f"${CONTENT}$", "$N×D$", VERMILION, VERMILION_TINT)

    arrow(ax, (conv + 5, g), (104, g), (104, position), (norm - 7.5, position))
    dot(ax, 104, g)
    box(ax, norm, position, 15, f"${POSITION}$", "$N×D$", PURPLE, PURPLE_TINT)
    arrow(ax, (norm + 7.5, position), (content - 1.6, position))

    arrow(ax, (content, phi - 3.6), (content, position + 1.6))
    plus(ax, content, position)
    arrow(ax, (content, position - 1.6), (content, out + 3.6))
    box(ax, content, out, 13, "out  1×1", "$C×N$")
    arrow(ax, (content, out - 3.6), (content, residual + 1.6))
    plus(ax, content, residual)
    arrow(ax, (content, residual - 1.6), (content, z + 2.4))
    box(ax, content, z, 15, "$z$  $C×H×W$", edge=BLUE, fill=BLUE_TINT)

    text(ax, norm - 7.5, 23.4, r"relative position: $\hat{E}$ holds the", ha="left")
    text(ax, norm - 7.5, 20.2, "lowest 9×9 DCT frequencies", ha="left")
    text(ax, 86.3, 5.9, f"${CONTENT}$ takes $O(N)$ time and memory", MEDIUM, ha="left")
    text(ax, 86.3, 2.2, f"${AFFINITY_FIRST}$ would take $O(N^2)$", MEDIUM, ha="left")


def main():
    plt.rcParams |= {"font.family": "DejaVu Sans", "mathtext.fontset": "dejavusans"}
    figure = plt.figure(figsize=(WIDTH / 10, HEIGHT / 10), facecolor="white")
    ax = figure.add_axes((0, 0, 1, 1), xlim=(0, WIDTH), ylim=(0, HEIGHT))
    ax.axis("off")
    draw_stream(ax)
    draw_block(ax)
    picture = io.BytesIO()
    figure.savefig(picture, dpi=DPI)
    # A palette of 64 colours is all it takes, in a third of the bytes.
    small = Image.open(picture).convert("RGB").quantize(64, dither=Image.Dither.NONE)
    small.save(pathlib.Path(__file__).with_name("enl.png"), optimize=True)


if __name__ == "__main__":
    main()
