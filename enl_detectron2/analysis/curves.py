"""Training curves of several runs in one plot."""

import json
import logging
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .drawing import plain_text, save_figure, shortened
from .palette import MODEL_COLOURS, MODEL_MARKERS

logger = logging.getLogger(__name__)

METRICS = ("total_loss", "bbox/AP", "bbox/APs")


def read_metrics(run: str | os.PathLike) -> dict[int, dict[str, float]]:
    """What a run logged: its metrics by iteration, in order.

    A resumed run does some iterations twice; what was logged last stands. Lines that aren't whole,
    after a kill or a full disk, are left out, and a warning names each.

    Args:
        run: its ``metrics.json``, or the output folder that holds it.

    Raises:
        ValueError: if there is none, or no line is one of detectron2's metrics; names it.
    """
    path = Path(run)
    path = path / "metrics.json" if path.is_dir() else path
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise ValueError(f"{path} can't be read: {error.strerror}") from error
    metrics: dict[int, dict[str, float]] = {}
    bad = []
    for number, line in enumerate(lines, start=1):
        try:
            entry = json.loads(line)
            if not all(isinstance(value, (int, float)) for value in entry.values()):
                raise ValueError("it has values that are no numbers")
            metrics.setdefault(int(entry["iteration"]), {}).update(entry)
        # AttributeError: it isn't even a dict. OverflowError: an infinite iteration.
        except (ValueError, KeyError, AttributeError, OverflowError):
            bad.append(number)
    if bad and not metrics:
        raise ValueError(f"{path}, line {bad[0]}, isn't one of detectron2's metrics, nor is any")
    for number in bad:
        logger.warning("%s, line %d, is cut or damaged and left out", path, number)
    return dict(sorted(metrics.items()))


@plain_text
def plot_curves(
    runs: Mapping[str, str | os.PathLike],
    path: str | os.PathLike,
    *,
    metrics: Sequence[str] = METRICS,
) -> None:
    """Draws each metric of several runs over the iterations, a panel for each.

    Args:
        runs: their ``metrics.json`` or output folders, by the runs' names.
        path: the picture to write; its suffix says its format.
        metrics: keys of ``metrics.json``; those that no run has are left out.

    Raises:
        ValueError: if a run can't be read, or none has any of the metrics; says what there is.
    """
    logged = {name: read_metrics(run) for name, run in runs.items()}
    known = {key for of_run in logged.values() for entry in of_run.values() for key in entry}
    drawn = [metric for metric in metrics if metric in known]
    if not drawn:
        raise ValueError(
            f"no run has {' or '.join(metrics)}; there are {', '.join(sorted(known)) or 'none'}"
        )
    last = max(max(of_run, default=0) for of_run in logged.values()) or 1
    figure = Figure(figsize=(5.2 * len(drawn), 4.2), layout="constrained")
    for metric, ax in zip(drawn, figure.subplots(1, len(drawn), squeeze=False)[0]):
        _draw_metric(ax, metric, logged)
        ax.set_xlim(0, 1.05 * last)
    save_figure(figure, path)


def _draw_metric(ax: Axes, metric: str, logged: Mapping[str, dict[int, dict[str, float]]]) -> None:
    is_negative = False
    for name, colour, marker in zip(logged, MODEL_COLOURS, MODEL_MARKERS):
        points = [(i, entry[metric]) for i, entry in logged[name].items() if metric in entry]
        # Where a value isn't finite matplotlib leaves a gap, and the line's name says so.
        lost = sum(not math.isfinite(value) for _, value in points)
        is_negative |= any(value < 0 for _, value in points)
        ax.plot(
            *zip(*points) if points else ([], []),
            color=colour,
            marker=marker,
            markersize=5 if len(points) < 50 else 0,
            label=shortened(name) + (f" ({lost} not finite)" if lost else ""),
        )
    ax.set_title(shortened(metric))
    ax.set_xlabel("iterations")
    if not is_negative:
        ax.set_ylim(bottom=0)
    ax.grid(alpha=0.3)
    ax.legend()
