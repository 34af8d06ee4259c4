"""What an analysis of errors says: tables, a sentence for each model, a CSV file and a figure."""

import csv
import os
from collections.abc import Iterator, Mapping, Sequence

from matplotlib.figure import Figure
from tabulate import tabulate

from enl_detectron2.analysis.drawing import plain_text, shortened
from enl_detectron2.analysis.palette import MODEL_COLOURS, MODEL_MARKERS, SMALL_SIDE

from .errors import ErrorAnalysis, Row

FEW = 30  # objects: a share of fewer says little
BESIDE = 0.12  # of the distance of two groups: between the markers of two models
METRICS = ("recall", "AP50", "AP")
SIZE_GROUPING = "box side, px"
COUNT_GROUPING = "objects of its class in the image"


def describe_effect(name: str, analysis: ErrorAnalysis) -> str:
    """One sentence: whether repetition helps this model on this data, and on which numbers."""
    effect = analysis.effect
    numbers = ", ".join(
        f"{row.label}: {row.recall:.1f} % of {row.objects}"
        for row in analysis.by_count
        if row.objects
    )
    evidence = f"recall by that number: {numbers or 'no small objects'}"
    if effect.points is None:
        return (
            f"{name}: this data can't tell whether recall of small objects grows with the number "
            "of objects of their class in the image, since it has no two alike in class and size "
            f"with different numbers; {evidence}."
        )
    verb = "doesn't measurably change"
    if effect.low > 0:
        verb = "grows"
    elif effect.high < 0:
        verb = "falls"
    return (
        f"{name}: recall of small objects {verb} with the number of objects of their class in the "
        f"image: {effect.points:+.1f} points for each doubling (95 % interval {effect.low:+.1f} to "
        f"{effect.high:+.1f}) between objects of the same class and size; {evidence}."
    )


def format_analyses(analyses: Mapping[str, ErrorAnalysis]) -> str:
    """Two tables, a line for each group that has objects, and a sentence for each model."""
    parts = []
    for title, groups in _groupings(analyses):
        headers = [title.replace(" in the", "\nin the"), "objects"]
        headers += [f"{shortened(name)}\n{metric}" for name in analyses for metric in METRICS]
        lines = [
            [rows[0].label, rows[0].objects]
            + [getattr(row, metric) for row in rows for metric in METRICS]
            for rows in groups
            if rows[0].objects
        ]
        parts.append(tabulate(lines, headers, floatfmt=".1f", missingval="–"))
    parts.append(
        "Percent. recall: found at IoU 0.5 by a detection above the score threshold; AP50, AP: "
        "COCO's, of all detections,\nmeans over classes. The second table is of small objects "
        f"(side below {SMALL_SIDE} px); its AP doesn't\ncount detections in images without the "
        "class."
    )
    parts += [describe_effect(name, analysis) for name, analysis in analyses.items()]
    return "\n\n".join(parts)


def write_csv(analyses: Mapping[str, ErrorAnalysis], path: str | os.PathLike) -> None:
    """Both tables in one file, a line for each model and group."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["grouped by", "group", "model", "objects", *METRICS])
        for title, groups in _groupings(analyses):
            for rows in groups:
                for name, row in zip(analyses, rows):
                    values = [getattr(row, metric) for metric in METRICS]
                    writer.writerow([title, row.label, name, row.objects, *values])


@plain_text
def plot_analyses(analyses: Mapping[str, ErrorAnalysis], path: str | os.PathLike) -> None:
    """Recall and AP by side and by number, a line for each model.

    Args:
        analyses: of the same ground truth.
        path: the picture to write; its suffix says its format.
    """
    figure = Figure(figsize=(12, 7.5), layout="constrained")
    axes = figure.subplots(2, 2, sharey=True)
    titles = ("all objects", f"small objects (side below {SMALL_SIDE} px)")
    for (title, groups), which, pair in zip(_groupings(analyses), titles, axes):
        groups = [rows for rows in groups if rows[0].objects and rows[0].label != "all"]
        labels = [f"{rows[0].label}\n{rows[0].objects:,}" for rows in groups]
        many = [rows[0].objects >= FEW for rows in groups]
        for metric, ax in zip(("recall", "AP"), pair):
            for index, name in enumerate(analyses):
                values = [getattr(rows[index], metric) for rows in groups]
                style = {"color": MODEL_COLOURS[index], "marker": MODEL_MARKERS[index]}
                # Side by side, so that none hides another of the same value.
                beside = BESIDE * (index - (len(analyses) - 1) / 2)
                places = [at + beside for at in range(len(values))]
                # The line goes through groups that say something, past the others.
                line = [at for at in range(len(values)) if many[at]]
                x, y = [places[at] for at in line], [values[at] for at in line]
                ax.plot(x, y, label=shortened(name), **style)
                few = [(places[at], value) for at, value in enumerate(values) if not many[at]]
                if few:
                    ax.plot(*zip(*few), markerfacecolor="white", linestyle="none", **style)
            ax.set_xticks(range(len(groups)), labels, fontsize="small")
            ax.set_xmargin(0.1)
            ax.set_xlabel(f"{title}; below it, how many objects")
            ax.set_ylabel("recall at IoU 0.5, %" if metric == "recall" else "AP, %")
            ax.set_title(which, fontsize="medium")
            ax.grid(axis="y", alpha=0.3)
    axes[0, 0].set_ylim(-3, 103)  # all share it
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
    figure.supxlabel(f"hollow: fewer than {FEW} objects, which say little", fontsize="small")
    figure.savefig(path)


def _groupings(analyses: Mapping[str, ErrorAnalysis]) -> Iterator[tuple[str, list[Sequence[Row]]]]:
    """Each grouping's name, and for each group the models' rows."""
    sides = ([*analysis.by_side, analysis.every] for analysis in analyses.values())
    yield SIZE_GROUPING, list(zip(*sides))
    yield COUNT_GROUPING, list(zip(*(analysis.by_count for analysis in analyses.values())))
