#!/usr/bin/env python
"""Draws the report of the experiment from the lines of its runs.

    python benchmarks/relations/report.py

Writes results/report.md and docs/relations.png; nothing in either is typed by hand.
"""

import json
import math
import statistics
from collections.abc import Iterable

import matplotlib.pyplot as plt
from paths import FOLDER, RESULTS
from scenes import IMAGE_SIZE, MAIN_LEVEL, MAIN_RELATION
from scipy import stats
from systems import BASELINE, SYSTEMS
from tabulate import tabulate

RUNS = RESULTS / "runs.jsonl"
PICTURE = FOLDER.parents[1] / "docs" / "relations.png"
METRICS = ("AP", "AP50", "APs", "APm")
COLOUR = "#0072B2"

Record = dict


def main() -> None:
    records = [json.loads(line) for line in RUNS.read_text().splitlines()]
    headroom = json.loads((RESULTS / "headroom.json").read_text())
    (RESULTS / "report.md").write_text(report(records, headroom))
    draw(records).savefig(PICTURE)


# ---------------------------------------------------------------------------- statistics


def interval(values: Iterable[float]) -> tuple[float, float]:
    """The mean and the half width of its 95 % interval, by Student's t; NaN for one value."""
    values = list(values)
    if len(values) < 2:
        return values[0], math.nan
    half = stats.t.ppf(0.975, len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    return statistics.mean(values), float(half)


def setting(records: list[Record], level: str, relation: str) -> dict[str, dict[int, Record]]:
    """The runs of one setting: for each system, by seed."""
    runs: dict[str, dict[int, Record]] = {}
    for record in records:
        run = record["run"]
        if (run["level"], run["relation"]) == (level, relation):
            runs.setdefault(run["system"], {})[run["seed"]] = record
    return {system: runs[system] for system in SYSTEMS if system in runs}


def paired(runs: dict[str, dict[int, Record]], system: str, metric: str) -> list[float]:
    """A system's differences to the baseline, seed by seed."""
    baseline = runs.get(BASELINE, {})
    return [
        record["metrics"][metric] - baseline[seed]["metrics"][metric]
        for seed, record in runs[system].items()
        if seed in baseline
    ]


# ---------------------------------------------------------------------------- tables


def report(records: list[Record], headroom: dict[str, dict[str, float]]) -> str:
    settings = {(r["run"]["level"], r["run"]["relation"]): None for r in records}
    main_setting = (MAIN_LEVEL, MAIN_RELATION)
    ordered = sorted(settings, key=lambda each: (each != main_setting, each))
    parts = [
        "<!-- written by benchmarks/relations/report.py -->",
        section(
            f"Headroom: the share of tiny digits that a classifier tells right, {IMAGE_SIZE} px",
            [{"level": level} | shares(row) for level, row in headroom.items()],
        ),
    ]
    for level, relation in ordered:
        runs = setting(records, level, relation)
        title = f"Level {level}, relation {relation}"
        parts.append(section(title, [system_row(runs, system) for system in runs]))
    runs = setting(records, *main_setting)
    for key, title in (
        ("recall_by_side", "Recall by box side, px"),
        ("recall_by_count", "Recall of small objects by the number of their class"),
    ):
        parts.append(section(f"{title}: main setting", [means(runs, s, key) for s in runs]))
    return "\n".join(parts)


def section(title: str, rows: list[dict]) -> str:
    body = tabulate(rows, headers="keys", tablefmt="github", disable_numparse=True)
    return f"### {title}\n\n{body}\n"


def shares(row: dict[str, float]) -> dict[str, str]:
    return {name: f"{100 * value:.0f} %" for name, value in row.items()}


def system_row(runs: dict[str, dict[int, Record]], system: str) -> dict[str, str]:
    of_system = list(runs[system].values())
    row = {"system": system, "seeds": str(len(of_system))}
    for metric in METRICS:
        row[metric] = with_interval(record["metrics"][metric] for record in of_system)
    differences = paired(runs, system, "APs")
    row["APs to baseline, paired"] = (
        with_interval(differences, sign="+") if differences and system != BASELINE else ""
    )
    added = [value for record in of_system for value in record["added_by_blocks"].values()]
    row["added ÷ input"] = f"{statistics.mean(added):.2f}" if added else ""
    row["parameters, M"] = f"{of_system[0]['parameters'] / 1e6:.3f}"
    row["multiply-adds, G"] = f"{of_system[0]['multiply_adds'] / 1e9:.3f}"
    return row


def with_interval(values: Iterable[float], sign: str = "") -> str:
    mean, half = interval(values)
    return f"{mean:{sign}.1f}" + ("" if math.isnan(half) else f" ± {half:.1f}")


def means(runs: dict[str, dict[int, Record]], system: str, key: str) -> dict[str, str]:
    groups = runs[system][min(runs[system])][key]
    row = {"system": system}
    for group in groups:
        values = [record[key][group] for record in runs[system].values()]
        known = [value for value in values if value is not None]
        row[group] = f"{statistics.mean(known):.1f}" if known else ""
    return row


# ---------------------------------------------------------------------------- picture


def draw(records: list[Record]) -> plt.Figure:
    """Each system's paired difference to the baseline, a point a seed and their interval."""
    settings = sorted({(r["run"]["level"], r["run"]["relation"]) for r in records})
    figure, all_axes = plt.subplots(
        1,
        len(settings),
        figsize=(3 + 2.6 * len(settings), 4),
        dpi=150,
        layout="constrained",
        sharey=True,
        squeeze=False,
    )
    for axes, (level, relation) in zip(all_axes[0], settings):
        runs = setting(records, level, relation)
        others = [system for system in SYSTEMS if system in runs and system != BASELINE]
        for system in others:
            differences = paired(runs, system, "APs")
            if not differences:
                continue
            place = list(SYSTEMS).index(system)
            mean, half = interval(differences)
            axes.errorbar(mean, place, xerr=half, fmt="D", color=COLOUR, capsize=4)
            axes.plot(differences, [place] * len(differences), "o", mfc="none", mec="#666666")
        axes.axvline(0, color="#666666", lw=0.8)
        axes.set_title(f"{level}, {relation}", fontsize=10)
        axes.set_xlabel("APs to baseline")
    names = list(SYSTEMS)[1:]
    all_axes[0][0].set_yticks(range(1, len(SYSTEMS)), names)
    all_axes[0][0].invert_yaxis()
    return figure


if __name__ == "__main__":
    main()
