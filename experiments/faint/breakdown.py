"""Where the nuclei's differences lie: in which photographs, in finding nuclei or in their scores.

    cd experiments; python -m faint.breakdown    # needs the grid's detections in output/

Looked at when the differences were known, so that it explains and proves nothing. Writes
results/faint_breakdown.md.
"""

import contextlib
import io
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from runner.bootstrap import Bootstrap, match
from runner.grid import Grid, Run, load_grid
from runner.results import accepted
from runner.statistics import with_interval
from tabulate import tabulate
from visdrone.measures import detections, ground_truth

from faint.report import ENL, LIMITS, WIDER

FOLDER = Path(__file__).resolve().parents[1]
SET, LEVELS = "nuclei", ("sharp", "dark", "darker")
SYSTEMS = (SET, f"{SET} {ENL}", f"{SET} {WIDER}")
THIRDS = ("few", "some", "many")

Measured = dict[Run, dict[str, float]]


def main() -> None:
    grid = load_grid(FOLDER / "faint.yaml")
    measured = measure(grid)
    if len(measured) < sum(run.system in SYSTEMS and run.data in LEVELS for run in counted(grid)):
        sys.exit(f"detections of some runs aren't in {grid.output}, and the page is of all")
    page = (
        "# faint: where the differences lie\n\nWritten by `python -m faint.breakdown`; explained "
        "in [its page](../faint/README.md#where-the-gain-lies). Points minus the plain detector's, "
        "paired by seed, mean and 95 % interval over seeds, and with how many seeds they are above "
        "0.\n"
    )
    for level in LEVELS:
        shown = tabulate(
            rows(measured, level), headers="keys", tablefmt="github", disable_numparse=True
        )
        page += f"\n## {level.capitalize()}\n\n{shown}\n"
    (FOLDER / "results" / "faint_breakdown.md").write_text(page)


def counted(grid: Grid) -> list[Run]:
    return [Run(**line["run"]) for line in accepted(grid)[0]]


def measure(grid: Grid) -> Measured:
    """What the detections show of all runs that count and left theirs here."""
    measured = {}
    for run in counted(grid):
        file = detections(grid, run)
        if run.system in SYSTEMS and run.data in LEVELS and file.exists():
            truth = ground_truth(grid, run)
            with contextlib.redirect_stdout(io.StringIO()):
                found = truth.loadRes(str(file))
            measured[run] = parts(Bootstrap(match(truth, found, "bbox", LIMITS[SET], [0.5])))
    return measured


def parts(of_run: Bootstrap) -> dict[str, float]:
    """Measures of one run, at IoU 0.5 and in percent.

    ``all``: AP50. ``within photographs``: the mean of each photograph's own AP50, so that only the
    order of scores within it counts. ``few``, ``some``, ``many``: AP50 of the thirds of the
    photographs by their number of objects. ``found``: the share of the objects that any detection
    is matched with, of those that a detector reports.

    Args:
        of_run: of one class and one IoU.
    """
    [objects] = [one.objects for one in of_run.classes]
    [matches] = [one.at_ious[0] for one in of_run.classes]
    images = len(objects)
    each = np.eye(images)[objects > 0]
    by_number = np.array_split(np.argsort(objects, kind="stable"), len(THIRDS))
    thirds = np.array([np.isin(np.arange(images), third) for third in by_number], dtype=float)
    return {
        "all": float(of_run.ap(np.ones((1, images)))[0]),
        "within photographs": float(of_run.ap(each).mean()),
        **dict(zip(THIRDS, of_run.ap(thirds).tolist())),
        "found": 100 * len(matches.image) / float(objects.sum()),
    }


def rows(measured: Measured, level: str) -> list[dict[str, str]]:
    """One of each measure: the plain detector's, and the others' differences to it."""
    of_level = {(run.system, run.seed): each for run, each in measured.items() if run.data == level}
    plain = {seed: each for (system, seed), each in of_level.items() if system == SET}
    lines = []
    for name in next(iter(plain.values()), {}):
        line = {"": name, "plain": with_interval(each[name] for each in plain.values())}
        for system in (ENL, WIDER):
            line[system] = said(
                each[name] - plain[seed][name]
                for (of_run, seed), each in of_level.items()
                if of_run == f"{SET} {system}" and seed in plain
            )
        lines.append(line)
    return lines


def said(differences: Iterable[float]) -> str:
    """ "+1.9 ± 1.6, 8 of 10"; empty if there are none."""
    values = list(differences)
    if not values:
        return ""
    above = sum(value > 0 for value in values)
    return f"{with_interval(values, sign='+')}, {above} of {len(values)}"


if __name__ == "__main__":
    main()
