"""The tables and the picture that docs/evidence.md speaks of; none of them is typed by hand.

``write`` makes results/*.md of the lines and measures beside them, and the picture
docs/evidence.png, of all settings of the digits and the nuclei. Differences are paired by seed,
intervals are 95 %, Student's t over seeds.
"""

import json
import math
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from relations.scenes import LEVELS, MAIN_LEVEL, MAIN_RELATION
from runner.grid import Grid, load_grid
from runner.results import accepted, by_system
from runner.statistics import interval, with_interval
from tabulate import tabulate

FOLDER = Path(__file__).resolve().parent
RESULTS = FOLDER / "results"
PICTURE = FOLDER.parent / "docs" / "evidence.png"
GRIDS = ("digits", "nuclei", "visdrone", "visdrone_others")
BASELINE = "baseline"
SHOWN = {"+3NL TD": "+3NL TD, cos add"}  # what a name of the digits' grid doesn't say
LOOK_ALIKES = (("car", "van", "truck"), ("pedestrian", "people"), ("tricycle", "awning-tricycle"))
COLOUR = "#0072B2"
MOST_COLUMNS = 4  # of the picture, or its text gets too small on a page

Line = dict[str, Any]
Rows = list[dict[str, str]]
Runs = dict[str, dict[int, Line]]  # of each system, by seed


def write() -> None:
    """Writes all tables and the picture."""
    grids = {name: load_grid(FOLDER / f"{name}.yaml") for name in GRIDS}
    lines = {}
    for name, grid in grids.items():
        lines[name], refused = accepted(grid)
        for run, differences in refused.items():
            print(f"left out, {run.name}: it comes from other {', '.join(differences)}")
    pages = {"digits": digits_tables(lines["digits"], list(grids["digits"].systems))}
    pages["nuclei"] = nuclei_tables(lines["nuclei"], list(grids["digits"].systems))
    for name in ("visdrone", "visdrone_others"):
        pages[name] = drone_tables(grids[name], lines[name])
    for name, tables in pages.items():
        text = "".join(f"\n## {title}\n\n{shown(rows)}\n" for title, rows in tables.items())
        note = f"Written by `python experiments/report.py experiments/{name}.yaml`; explained in"
        page = f"# {name}\n\n{note} [docs/evidence.md](../../docs/evidence.md).\n{text}"
        (RESULTS / f"{name}.md").write_text(page)
    draw(lines["digits"] + lines["nuclei"], grids["digits"]).savefig(PICTURE)
    print(f"{RESULTS}/*.md and {PICTURE} are written")


def shown(rows: Rows) -> str:
    return tabulate(rows, headers="keys", tablefmt="github", disable_numparse=True)


def measured(name: str) -> Any:
    return json.loads((RESULTS / f"{name}.json").read_text())


# ---------------------------------------------------------------------------- rows of any grid


def settings(lines: list[Line]) -> list[tuple[str, str]]:
    """The data and the variant of all lines: the main one, then the main level's others, the other
    levels', and nuclei last."""
    found = {(line["run"]["data"], line["run"]["variant"]) for line in lines}

    def place(each: tuple[str, str]) -> tuple:
        data, variant = each
        return data not in LEVELS, data != MAIN_LEVEL, variant != MAIN_RELATION, each

    return sorted(found, key=place)


def heading(data: str, variant: str) -> str:
    return f"Digits, {data}, {variant}" if data in LEVELS else f"Nuclei, {variant}"


def paired(runs: Runs, system: str, metric: str, of: str = "metrics") -> list[float]:
    """A system's differences to the baseline, seed by seed."""
    values = [
        [line[of][metric] if of else line[metric] for line in (line, runs[BASELINE][seed])]
        for seed, line in runs[system].items()
        if seed in runs.get(BASELINE, {})
    ]
    return [ours - theirs for ours, theirs in values]


def difference(runs: Runs, system: str) -> str:
    """In APs; empty for the baseline itself."""
    differences = paired(runs, system, "APs")
    return with_interval(differences, sign="+") if differences and system != BASELINE else ""


def system_rows(runs: Runs, metrics: Iterable[str], ending: str = "", compared=True) -> Rows:
    rows = []
    for system, by_seed in runs.items():
        lines = list(by_seed.values())
        name = SHOWN.get(system, system) if compared else system
        row = {"system": name, "seeds": str(len(lines))}
        for metric in metrics:
            values = [line["metrics"][metric] for line in lines]
            row[metric + ending] = "–" if None in values else with_interval(values)
        if compared:
            row["APs to baseline, paired"] = difference(runs, system)
        added = [value for line in lines for value in line["added_by_blocks"].values()]
        row["added ÷ input"] = f"{statistics.mean(added):.2f}" if added else ""
        row["parameters, M"] = f"{lines[0]['parameters'] / 1e6:.3f}"
        row["multiply-adds, G"] = f"{lines[0]['multiply_adds'] / 1e9:.{3 if compared else 2}f}"
        rows.append(row)
    return rows


def mean_rows(runs: Runs, key: str, names: dict[str, str] = SHOWN) -> Rows:
    """The means over seeds of a mapping of numbers, None where there is nothing for any system."""
    return [
        {"system": names.get(system, system)}
        | {
            group: f"{statistics.mean(line[key][group] for line in by_seed.values()):.1f}"
            for group, value in next(iter(by_seed.values()))[key].items()
            if value is not None
        }
        for system, by_seed in runs.items()
    ]


def recall_tables(runs: Runs, title: str, names: dict[str, str] = SHOWN) -> dict[str, Rows]:
    return {
        f"{title}: recall by box side, px": mean_rows(runs, "recall_by_side", names),
        f"{title}: recall of small objects by the number of their class": mean_rows(
            runs, "recall_by_count", names
        ),
    }


# ---------------------------------------------------------------------------- digits and nuclei

METRICS = ("AP", "AP50", "APs", "APm")


def digits_tables(lines: list[Line], systems: list[str]) -> dict[str, Rows]:
    tables = {
        heading(*setting): system_rows(by_system(systems, lines, *setting), METRICS)
        for setting in settings(lines)
    }
    main = by_system(systems, lines, MAIN_LEVEL, MAIN_RELATION)
    return tables | recall_tables(main, heading(MAIN_LEVEL, MAIN_RELATION))


def nuclei_tables(lines: list[Line], systems: list[str]) -> dict[str, Rows]:
    runs = {setting: by_system(systems, lines, *setting) for setting in settings(lines)}
    tables = {heading(*setting): system_rows(of, METRICS) for setting, of in runs.items()}
    for setting, of in runs.items():
        tables |= recall_tables(of, heading(*setting))
    return tables


# ---------------------------------------------------------------------------- drone


def drone_tables(grid: Grid, lines: list[Line]) -> dict[str, Rows]:
    title = {"visdrone": "Drone", "visdrone_others": "Drone, other systems"}[grid.title]
    measures = measured(f"{grid.title}_measures")
    runs, of_measures = (
        by_system(grid.systems, each, "test", "main") for each in (lines, measures["runs"])
    )
    metrics = ("AP", "AP50", "APs", "APm", "APl")
    return {
        f"{title}: the primary measures": primary_rows(of_measures, measures["differences"]),
        f"{title}: what else was measured of these runs": system_rows(
            runs, metrics, ", ten classes", compared=False
        ),
        f"{title}: AP50 of each class": mean_rows(of_measures, "classes", {}),
        f"{title}: what objects of look-alike classes are called": called_rows(of_measures),
        **recall_tables(runs, title, {}),
    }


def primary_rows(runs: Runs, moved: dict[str, dict[str, Any]]) -> Rows:
    rows = []
    for system, by_seed in runs.items():
        row = {"system": system, "seeds": str(len(by_seed))}
        for name in ("AP50", "APs"):
            row[name] = with_interval(line[name] for line in by_seed.values())
        for name in ("AP50", "APs") if system != BASELINE else ():
            low, high = moved[system][name]
            differences = paired(runs, system, name, of="")
            row[f"{name} to baseline, seeds"] = with_interval(differences, sign="+")
            row[f"{name} to baseline, sequences"] = f"{low:+.1f} to {high:+.1f}"
        rows.append(row)
    return rows


def called_rows(runs: Runs) -> Rows:
    """In percent of a group's objects, and of those that are found."""
    rows = []
    for system, by_seed in runs.items():
        for group in LOOK_ALIKES:
            shares = [called_shares(line["called"], group) for line in by_seed.values()]
            row = {"system": system, "look-alikes": ", ".join(group)}
            row |= {key: with_interval(share[key] for share in shares) for key in shares[0]}
            rows.append(row)
    return rows


def called_shares(called: dict[str, dict[str, int]], group: tuple[str, ...]) -> dict[str, float]:
    objects = sum(sum(called[name].values()) for name in group)
    found = objects - sum(called[name].get("", 0) for name in group)
    right = sum(called[name].get(name, 0) for name in group)
    alike = sum(called[name].get(other, 0) for name in group for other in group) - right
    return {
        "found, %": 100 * found / objects,
        "of these called right, %": 100 * right / max(found, 1),
        "called a look-alike, %": 100 * alike / max(found, 1),
    }


# ---------------------------------------------------------------------------- picture


def draw(lines: list[Line], grid: Grid) -> Figure:
    """Each system's paired difference to the baseline, a point a seed and their interval."""
    shown = settings(lines)
    names = {line["run"]["system"] for line in lines} - {BASELINE}
    systems = [system for system in grid.systems if system in names]
    columns = min(len(shown), MOST_COLUMNS)
    rows = math.ceil(len(shown) / columns)
    size = (3 + 2.2 * columns, rows * (1.2 + 0.3 * len(systems)))
    figure = Figure(figsize=size, dpi=150, layout="constrained")
    all_axes = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for axes in all_axes.flat[len(shown) :]:
        axes.set_visible(False)
    for axes, setting in zip(all_axes.flat, shown):
        runs = by_system(grid.systems, lines, *setting)
        for place, system in enumerate(systems):
            differences = paired(runs, system, "APs") if system in runs else []
            if not differences:
                continue
            mean, half = interval(differences)
            axes.errorbar(mean, place, xerr=half, fmt="D", color=COLOUR, capsize=4)
            seeds = {"marker": "o", "ms": 3.5, "mfc": "white", "mec": "black", "zorder": 3}
            axes.plot(differences, [place] * len(differences), ls="", **seeds)
        axes.axvline(0, color="#666666", lw=0.8)
        axes.set_title(heading(*setting).replace(", ", "\n", 1), fontsize=10)
        axes.set_xlabel("APs to baseline")
        axes.tick_params(labelbottom=True)  # what's below may be empty
    all_axes[0][0].set_yticks(range(len(systems)), [SHOWN.get(name, name) for name in systems])
    all_axes[0][0].invert_yaxis()  # of all, as they share the axis
    return figure
