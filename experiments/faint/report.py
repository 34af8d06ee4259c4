"""The tables of the faint grid, and its picture: ENL's gain against how recognisable an object is.

``write`` measures the runs whose detections are here, keeps what was measured of others, and
writes results/faint_measures.json, results/faint.md and faint/gain.png.
"""

import functools
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from runner.bootstrap import draw as draws_of
from runner.bootstrap import percentiles, remembered
from runner.grid import Grid, Run, load_grid
from runner.results import accepted, read_lines
from runner.statistics import interval, with_interval
from tabulate import tabulate
from visdrone.measures import (
    MEASURES,
    PRIMARY,
    detections,
    draws_of_sequences,
    first_apart,
    ground_truth,
    on_draws,
    with_others,
)

from faint.degrade import LEVELS
from faint.prepare import SETS, set_of

FOLDER = Path(__file__).resolve().parents[1]
RESULTS = FOLDER / "results"
CLASSES = {"nuclei": (), "streets": PRIMARY}
LIMITS = {"nuclei": 400, "streets": 500}  # detections a photograph, as the recipes have it
ENL, WIDE, WIDER = "+3ENL TD", "+3ENL TD, wide start", "wider"
MARKERS = {"digits": ("o", "#666666"), "nuclei": ("s", "#D55E00"), "streets": ("^", "#0072B2")}

Values = dict[tuple[str, str], dict[int, dict[str, float]]]  # of a system and level, by seed
Headroom = dict[tuple[str, str], dict[str, Any]]  # of a set and level


def write() -> None:
    grid = load_grid(FOLDER / "faint.yaml")
    file = RESULTS / "faint_measures.json"
    before = json.loads(file.read_text()) if file.exists() else {"runs": [], "differences": {}}
    measured, samples = measure(grid)
    runs = with_others(measured, before["runs"])
    moved = before["differences"] | moved_by_photographs(grid, samples)
    file.write_text(json.dumps({"runs": runs, "differences": moved}, indent=1) + "\n")
    values: Values = {}
    for line in runs:
        run = line["run"]
        values.setdefault((run["system"], run["data"]), {})[run["seed"]] = line
    text = (RESULTS / "faint_headroom.jsonl").read_text()
    lines = {(each["set"], each["level"]): each for each in map(json.loads, text.splitlines())}
    page = (
        "# faint\n\nWritten by `python experiments/report.py experiments/faint.yaml`; explained in"
    )
    page += " [its protocol](../faint/README.md).\n"
    for name in SETS:
        rows = [row(name, level, lines, values, moved) for level in LEVELS]
        rows = [each for each in rows if each]
        filled = [key for key in (rows[0] if rows else ()) if any(each[key] for each in rows)]
        rows = [{key: each[key] for key in filled} for each in rows]
        shown = tabulate(rows, headers="keys", tablefmt="github", disable_numparse=True)
        page += f"\n## {name.capitalize()}\n\n{shown}\n"
    (RESULTS / "faint.md").write_text(page)
    draw(gains(lines, values)).savefig(FOLDER / "faint" / "gain.png")
    print(f"{RESULTS}/faint.md and faint/gain.png are written: {len(runs)} runs")


def measure(grid: Grid) -> tuple[list[dict[str, Any]], dict[Run, dict[str, np.ndarray]]]:
    """The measures of all runs that count and whose detections are here, and their resamples."""
    measured, samples = [], {}
    for line in accepted(grid)[0]:
        run = Run(**line["run"])
        found = detections(grid, run)
        if found.exists():
            kept = found.with_name("resampled_primary.npz")
            drawn = remembered(kept, found, functools.partial(resample, grid, run))
            of_run, samples[run] = first_apart(drawn)
            measured.append({"run": asdict(run)} | of_run)
    return measured, samples


def resample(grid: Grid, run: Run) -> dict[str, np.ndarray]:
    """The primary measures of a run on all photographs, and on those drawn, or sequences."""
    name = set_of(run.system)
    truth = ground_truth(grid, run)
    if name == "nuclei":
        once = np.ones((1, len(truth.imgs)))
        draws = np.concatenate([once, draws_of(len(truth.imgs))])
    else:
        draws = draws_of_sequences(truth)
    found = truth.loadRes(str(detections(grid, run)))
    return on_draws(truth, found, draws, CLASSES[name], LIMITS[name])


def moved_by_photographs(
    grid: Grid, samples: dict[Run, dict[str, np.ndarray]]
) -> dict[str, dict[str, Any]]:
    """For each system and level, the interval over test photographs of its mean difference, and
    the seeds that it is of."""
    pairs: dict[str, list[tuple[Run, Run]]] = {}
    for run in samples:
        base = grid.baseline_of(run.system)
        plain = base and Run(base, run.data, run.variant, run.seed)
        if plain in samples:
            pairs.setdefault(f"{run.system}, {run.data}", []).append((run, plain))
    return {
        key: {"seeds": sorted(run.seed for run, _ in of_key)}
        | {
            metric: percentiles(
                np.mean([samples[a][metric] - samples[b][metric] for a, b in of_key], axis=0)
            )
            for metric in MEASURES
        }
        for key, of_key in pairs.items()
    }


def paired(
    values: Values, name: str, level: str, system: str, metric: str, minus: str = ""
) -> list[float]:
    """A system's differences, seed by seed, to the set's system ``minus``, by default the plain."""
    names = (f"{name} {system}", f"{name} {minus}".strip())
    ours, others = (values.get((each, level), {}) for each in names)
    return [ours[seed][metric] - others[seed][metric] for seed in sorted(ours) if seed in others]


def recognised(line: dict[str, Any], kind: str) -> float:
    """The accuracy of a headroom line, corrected for chance."""
    return (float(np.mean(line[kind])) - line["chance"]) / (1 - line["chance"])


def headroom_of(line: dict[str, Any]) -> list[float]:
    """The points of accuracy that the oracle gains, seed by seed."""
    return [100 * (a - b) for a, b in zip(line["oracle"], line["single"])]


def row(
    name: str, level: str, headroom: Headroom, values: Values, moved: dict[str, dict[str, Any]]
) -> dict[str, str]:
    """One level of a set; empty if nothing is known of it."""
    cells = {}
    if line := headroom.get((SETS[name][0], level)):
        cells = {
            "one crop by itself": f"{100 * float(np.mean(line['single'])):.1f} %",
            "corrected for chance": f"{recognised(line, 'single'):.2f}",
            "headroom, points": with_interval(headroom_of(line), sign="+"),
        }
    if plain := values.get((name, level)):
        cells["plain AP50"] = with_interval(line["AP50"] for line in plain.values())
        cells["pairs"] = str(len(paired(values, name, level, ENL, "AP50")))
    for system, metric in ((ENL, "AP50"), (ENL, "APs"), (WIDE, "AP50"), (WIDER, "AP50")):
        if differences := paired(values, name, level, system, metric):
            cells[f"{system}: {metric}"] = with_interval(differences, sign="+")
            of_photographs = moved.get(f"{name} {system}, {level}", {})
            # Where detections of some runs are gone, the interval is of fewer pairs.
            if system == ENL and len(of_photographs.get("seeds", ())) == len(differences):
                low, high = of_photographs[metric]
                cells[f"{metric}, photographs"] = f"{low:+.1f} to {high:+.1f}"
    if differences := paired(values, name, level, ENL, "AP50", minus=WIDER):
        cells[f"{ENL} − {WIDER}: AP50"] = with_interval(differences, sign="+")
    columns = ["one crop by itself", "corrected for chance", "headroom, points", "plain AP50"]
    columns += ["pairs", f"{ENL}: AP50", "AP50, photographs", f"{ENL}: APs", "APs, photographs"]
    columns += [f"{WIDE}: AP50", f"{WIDER}: AP50", f"{ENL} − {WIDER}: AP50"]
    return {"level": level} | {key: cells.get(key, "") for key in columns} if cells else {}


class Point(NamedTuple):
    """One level of a set: what its picture shows of it."""

    level: str
    recognised: float  # the accuracy of single crops, corrected for chance
    headroom: list[float]  # points of accuracy, by seed
    differences: list[float]  # of AP50, by seed


def gains(headroom: Headroom, values: Values) -> dict[str, list[Point]]:
    """The levels of the digits and of each set of which there are pairs."""
    digits = json.loads((RESULTS / "headroom.json").read_text())
    of_digits: Values = {}
    for line in read_lines(RESULTS / "digits.jsonl"):
        run = line["run"]
        if run["variant"] == "both" and run["system"] in ("baseline", ENL):
            system = run["system"].replace("baseline", "digits").replace(ENL, f"digits {ENL}")
            of_digits.setdefault((system, run["data"]), {})[run["seed"]] = line["metrics"]
    found = {
        "digits": [
            Point(
                level,
                (row["single"] - 0.1) / 0.9,
                [],  # theirs is another oracle's
                paired(of_digits, "digits", level, ENL, "AP50"),
            )
            for level, row in digits.items()
        ]
    }
    for name, (stored, _) in SETS.items():
        found[name] = [
            Point(
                level,
                recognised(line, "single"),
                headroom_of(line),
                differences,
            )
            for level in LEVELS
            if (differences := paired(values, name, level, ENL, "AP50"))
            and (line := headroom.get((stored, level)))
        ]
    return found


def draw(gains: dict[str, list[Point]]) -> Figure:
    """ENL's paired gain against single-crop accuracy, and of photographs against headroom, with
    95 % intervals over seeds, whose number stands behind each level."""
    figure = Figure(figsize=(9.6, 3.8), dpi=150, layout="constrained")
    by_accuracy, by_headroom = figure.subplots(1, 2)
    for name, points in gains.items():
        marker, colour = MARKERS[name]
        for place, point in enumerate(points):
            mean, half = interval(point.differences)
            reach = 0.0 if np.isnan(half) else half
            style = {"fmt": marker, "color": colour, "capsize": 4, "label": "" if place else name}
            text = {"textcoords": "offset points", "color": colour, "fontsize": "small"}
            text |= {"ha": "center", "va": "top", "xytext": (0, -3)}
            text["bbox"] = {"facecolor": "white", "edgecolor": "none", "alpha": 0.7, "pad": 0.5}
            shown = f"{point.level} ({len(point.differences)})"
            by_accuracy.errorbar(point.recognised, mean, yerr=reach or None, **style)
            by_accuracy.annotate(shown, (point.recognised, mean - reach), **text)
            if point.headroom:
                across, width = interval(point.headroom)
                by_headroom.errorbar(across, mean, yerr=reach or None, xerr=width, **style)
                by_headroom.annotate(shown, (across, mean - reach), **text)
    for axes in (by_accuracy, by_headroom):
        axes.axhline(0, color="#666666", lw=0.8)
        axes.margins(x=0.08, y=0.12)
        axes.set_ylabel("AP50, +3ENL TD minus plain FPN")
    by_accuracy.set(xlim=(0.2, 1.08))
    by_accuracy.set_xlabel("an object by itself: accuracy of one crop, corrected for chance")
    by_headroom.set_xlabel("photographs: points that the other objects tell an oracle")
    by_accuracy.legend(loc="upper left")
    return figure
