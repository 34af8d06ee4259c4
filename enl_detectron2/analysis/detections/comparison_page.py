"""The page of a comparison: a drawing of each image, and what each model found in all of them."""

import html
import os
import urllib.parse
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from enl_detectron2.analysis.drawing import plain_text, shortened
from enl_detectron2.analysis.palette import MODEL_COLOURS, TRUTH_COLOUR
from enl_detectron2.training.data.images import read_image
from enl_detectron2.utils.errors import BadImage

from .comparison import Box, Findings, ImageComparison
from .drawn import stretched
from .matching import require_size

MOST_MODELS = 3
PANEL = (480, 1000)  # pixels, the least and the greatest width of an image on a sheet
LONGEST_STEM = 200  # bytes of an image's name that its drawing's name keeps
GAP, HEAD, FOOT = 0.08, 0.55, 0.35  # inches between, above and below the images


def write_comparison(
    comparisons: Sequence[ImageComparison],
    image_folder: str | os.PathLike,
    output_folder: str | os.PathLike,
    *,
    score_threshold: float,
    small_side: float,
    num_images: int,
) -> list[str]:
    """Writes a PNG for each of the first images, and ``index.html``, which shows them all.

    Args:
        comparisons: in the order of the page; their totals count all of them.
        image_folder: where the images lie.
        output_folder: a folder to write to; made if it isn't there.
        score_threshold, small_side: of the comparisons, which the page says.
        num_images: how many images to draw.

    Returns:
        a sentence for each image that can't be read; it isn't drawn, but counts in the totals.
    """
    folder = Path(output_folder)
    folder.mkdir(parents=True, exist_ok=True)
    legend = (
        "strong box: found; dashed: missed; crossed: false; "
        f"thin: side of {small_side:g} px or more"
    )
    explanation = (
        f"Detections of score {score_threshold:g} or more; right are those that match an object of "
        "their class at IoU 0.5. Small is what has a side (the root of its box's area) below "
        f"{small_side:g} pixels. Marks: {legend}."
    )
    sheets, unreadable = [], []
    for rank, comparison in enumerate(comparisons[:num_images], start=1):
        name = sheet_name(rank, comparison.file_name)
        try:
            draw_comparison(comparison, image_folder, folder / name, legend=legend)
        except BadImage as error:
            unreadable.append(str(error))
        else:
            sheets.append((name, comparison))
    page = _page(comparisons, sheets, explanation)
    # File names needn't be Unicode.
    (folder / "index.html").write_text(page, encoding="utf-8", errors="backslashreplace")
    return unreadable


def sheet_name(rank: int, file_name: str) -> str:
    """The file name of an image's drawing, which must not be longer than file systems take."""
    stem = os.fsencode(Path(file_name).stem)[:LONGEST_STEM]
    return f"{rank:03d}_{stem.decode(errors='replace')}.png"


@plain_text
def draw_comparison(
    comparison: ImageComparison,
    image_folder: str | os.PathLike,
    path: str | os.PathLike,
    *,
    legend: str,
) -> None:
    """Draws ground truth and each model's findings in a row; ``path``'s suffix says the format.

    Raises:
        BadImage: (a ValueError) if the image can't be read, or has another size than the ground
            truth says; names it.
    """
    file = os.path.join(image_folder, comparison.file_name)
    image = stretched(read_image(file, "RGB", deep_images="rescale"))
    height, width = image.shape[:2]
    require_size(comparison.entry, file, height, width)
    panels = 1 + len(comparison.findings)
    # In inches of 100 pixels each. Placed by hand: automatic layouts leave gaps beside images.
    panel_width = min(max(width, PANEL[0]), PANEL[1]) / 100
    panel_height = panel_width * height / width
    size = panels * (panel_width + GAP) + GAP, panel_height + HEAD + FOOT
    figure = Figure(figsize=size)
    truth_axes, *model_axes = (
        figure.add_axes(
            (
                (GAP + panel * (panel_width + GAP)) / size[0],
                FOOT / size[1],
                panel_width / size[0],
                panel_height / size[1],
            )
        )
        for panel in range(panels)
    )
    for ax in (truth_axes, *model_axes):
        ax.imshow(image, extent=(0, width, height, 0), aspect="auto")
        ax.set_axis_off()

    truth_axes.set_title(f"ground truth\n{len(comparison.small)} small")
    for box in comparison.large:
        _outline(truth_axes, box, TRUTH_COLOUR, linewidth=1)
    for box in comparison.small.values():
        _outline(truth_axes, box, TRUTH_COLOUR)
    for ax, colour, (name, findings) in zip(model_axes, MODEL_COLOURS, comparison.findings.items()):
        ax.set_title(f"{shortened(name)}\n{_counts(comparison, findings)}")
        for box in findings.others:
            _outline(ax, box, colour, linewidth=1)
        for box, label in findings.hits:
            _outline(ax, box, colour)
            _write(ax, box, label, below=True)
        for box, label in findings.false:
            _outline(ax, box, colour)
            x, y, w, h = box
            ax.plot([x, x + w, x, x + w], [y, y + h, y + h, y], color=colour, linewidth=1)
            _write(ax, box, label, below=False)
        for number, box in comparison.small.items():
            if number not in findings.found:
                _outline(ax, box, TRUTH_COLOUR, linestyle=(0, (2, 1.5)))
    figure.text(0.5, 0.1 / size[1], legend, horizontalalignment="center")
    figure.savefig(path)


def _outline(ax: Axes, box: Box, colour: str, *, linewidth: float = 2, linestyle="-") -> None:
    x, y, width, height = box
    ax.add_patch(
        Rectangle(
            (x, y),
            width,
            height,
            fill=False,
            edgecolor=colour,
            linewidth=linewidth,
            linestyle=linestyle,
        )
    )


def _write(ax: Axes, box: Box, label: str, *, below: bool) -> None:
    x, y, _, height = box
    if label:
        ax.text(
            x,
            y + height if below else y,
            shortened(label),
            color="white",
            fontsize=8,
            verticalalignment="top" if below else "bottom",
            bbox={"facecolor": "black", "alpha": 0.8, "pad": 0.7, "edgecolor": "none"},
            clip_on=True,
        )


def _counts(comparison: ImageComparison, findings: Findings) -> str:
    missed = len(comparison.small) - len(findings.found)
    return f"{len(findings.found)} found, {missed} missed, {len(findings.false)} false"


_STYLE = """
body { font: 16px/1.45 system-ui, sans-serif; color: #222; margin: 1.5rem auto; max-width: 1500px;
       padding: 0 1rem; }
h1 { font-size: 1.5rem; margin: 0 0 .5rem; }
p { max-width: 75ch; margin: .5rem 0; }
table { border-collapse: collapse; margin: 1rem 0; }
th, td { padding: .25rem .9rem; text-align: right; border-bottom: 1px solid #ddd; }
th:first-child, td:first-child { text-align: left; }
.key { display: inline-block; width: .8em; height: .8em; margin-right: .4em; border: 2px solid; }
.wide { overflow-x: auto; }
figure { margin: 1.5rem 0 0; }
figure img { width: 100%; min-width: 60rem; height: auto; border: 1px solid #ddd; }
figcaption { color: #555; font-size: .9rem; overflow-wrap: anywhere; }
h1, p, td:first-child { overflow-wrap: anywhere; }
@media (max-width: 30rem) { body { margin: .75rem auto; } th, td { padding: .25rem .4rem; } }
"""


def _page(
    comparisons: Sequence[ImageComparison],
    sheets: Sequence[tuple[str, ImageComparison]],
    explanation: str,
) -> str:
    names = list(comparisons[0].findings) if comparisons else []
    title = "Small objects: " + ", ".join(names)
    objects = sum(len(comparison.small) for comparison in comparisons)
    differing = sum(comparison.difference > 0 for comparison in comparisons)
    rows = [_row("ground truth", TRUTH_COLOUR, objects, "", "", "")]
    for name, colour in zip(names, MODEL_COLOURS):
        findings = [comparison.findings[name] for comparison in comparisons]
        found = sum(len(of_image.found) for of_image in findings)
        false = sum(len(of_image.false) for of_image in findings)
        rows.append(_row(name, colour, "", found, objects - found, false))
    figures = [_figure(name, html.escape(_caption(comparison))) for name, comparison in sheets]
    return "\n".join(
        [
            '<!DOCTYPE html>\n<html lang="en">\n<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{html.escape(title)}</title>\n<style>{_STYLE}</style>",
            f"<h1>{html.escape(title)}</h1>",
            f"<p>{html.escape(explanation)}</p>",
            f"<p>The models differ on {differing} of {len(comparisons)} images; here are "
            f"{len(sheets)}, those first on which they differ most.</p>",
            '<div class="wide"><table><tr><th>small objects</th><th>in all</th><th>found</th>'
            "<th>missed</th><th>false</th></tr>",
            *rows,
            "</table></div>",
            *figures,
            "</html>\n",
        ]
    )


def _figure(name: str, caption: str) -> str:
    address = urllib.parse.quote(os.fsencode(name))
    return (
        f'<figure><div class="wide"><a href="{address}"><img src="{address}" loading="lazy" '
        f'alt="{caption}"></a></div><figcaption>{caption}</figcaption></figure>'
    )


def _row(name: str, colour: str, *values: object) -> str:
    cells = "".join(f"<td>{value}</td>" for value in values)
    key = f'<span class="key" style="border-color: {colour}"></span>'
    return f"<tr><td>{key}{html.escape(name)}</td>{cells}</tr>"


def _caption(comparison: ImageComparison) -> str:
    models = "; ".join(
        f"{name}: {_counts(comparison, findings)}" for name, findings in comparison.findings.items()
    )
    return f"{comparison.file_name}, {len(comparison.small)} small objects. {models}"
