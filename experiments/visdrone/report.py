"""The drone's tables of docs/evidence.md; none of them is typed by hand."""

import json
import statistics
from typing import Any

from relations.report import section
from runner.grid import Grid, load_grid
from runner.results import accepted
from runner.statistics import with_interval

from visdrone.measures import BASELINE, FOLDER, GROUPS, MEASURES, result_file

PAGE = FOLDER.parent / "docs" / "evidence.md"
GRIDS = {"visdrone.yaml": "Drone", "visdrone_others.yaml": "Drone, other systems"}
MARKERS = "<!-- written by experiments/report.py, drone -->\n", "<!-- end, drone -->"

Lines = dict[str, list[dict[str, Any]]]  # of each system, by seed


def write() -> None:
    """Writes the tables from the lines of all runs."""
    tables = "\n".join(report(load_grid(FOLDER / file), title) for file, title in GRIDS.items())
    page = PAGE.read_text()
    start, end = (page.index(marker) for marker in MARKERS)
    PAGE.write_text(page[:start] + MARKERS[0] + tables + page[end:])
    print(f"{PAGE} is written")


def by_system(systems: dict[str, Any], lines: list[dict[str, Any]]) -> Lines:
    """The lines of each system, in the grid's order, those of a system by seed."""
    found = {
        system: sorted(
            (line for line in lines if line["run"]["system"] == system),
            key=lambda line: line["run"]["seed"],
        )
        for system in systems
    }
    return {system: of_system for system, of_system in found.items() if of_system}


def report(grid: Grid, title: str) -> str:
    """A grid's tables."""
    lines, refused = accepted(grid)
    for run, different in refused.items():
        print(f"left out, {run.name}: it comes from other {', '.join(different)}")
    measures = json.loads(result_file(grid, "measures").read_text())
    measured = by_system(grid.systems, measures["runs"])
    recorded = by_system(grid.systems, lines)
    tables = {
        "the primary measures": main_rows(measured, measures["differences"]),
        "what else was measured of these runs": other_rows(recorded),
        "AP50 of each class": class_rows(measured),
        "what objects of look-alike classes are called": called_rows(measured),
        "recall by box side, px": recall_rows(recorded, "recall_by_side"),
        "recall of small objects by the number of their class": recall_rows(
            recorded, "recall_by_count"
        ),
    }
    if (probe := result_file(grid, "probe")).exists():  # of the systems whose weights were asked
        probed = by_system(grid.systems, json.loads(probe.read_text()))
        tables["what a cell of P3's background knows"] = probe_rows(probed)
    return "\n".join(section(f"{title}: {name}", rows) for name, rows in tables.items())


def main_rows(measured: Lines, moved: dict[str, dict[str, Any]]) -> list[dict[str, str]]:
    rows = []
    for system, lines in measured.items():
        row = {"system": system, "seeds": str(len(lines))}
        row |= {name: with_interval(line[name] for line in lines) for name in MEASURES}
        for name in MEASURES if system != BASELINE else ():
            differences = paired(measured, system, name)
            low, high = moved[system][name]
            row[f"{name} to baseline, seeds"] = with_interval(differences, sign="+")
            row[f"{name} to baseline, sequences"] = f"{low:+.1f} to {high:+.1f}"
        rows.append(row)
    return rows


def paired(measured: Lines, system: str, name: str) -> list[float]:
    """A system's differences to the baseline, seed by seed."""
    baseline = {line["run"]["seed"]: line[name] for line in measured[BASELINE]}
    return [line[name] - baseline[line["run"]["seed"]] for line in measured[system]]


def other_rows(recorded: Lines) -> list[dict[str, str]]:
    rows = []
    for system, lines in recorded.items():
        row = {"system": system, "seeds": str(len(lines))}
        for name in ("AP", "AP50", "APs", "APm", "APl"):
            row[f"{name}, ten classes"] = with_interval(line["metrics"][name] for line in lines)
        added = [value for line in lines for value in line["added_by_blocks"].values()]
        row["added ÷ input"] = f"{statistics.mean(added):.2f}" if added else ""
        row["parameters, M"] = f"{lines[0]['parameters'] / 1e6:.3f}"
        row["multiply-adds, G"] = f"{lines[0]['multiply_adds'] / 1e9:.2f}"
        rows.append(row)
    return rows


def class_rows(measured: Lines) -> list[dict[str, str]]:
    return [
        {"system": system}
        | {
            name: f"{statistics.mean(line['classes'][name] for line in lines):.1f}"
            for name in lines[0]["classes"]
        }
        for system, lines in measured.items()
    ]


def called_rows(measured: Lines) -> list[dict[str, str]]:
    """In percent of a group's objects, and of those that are found."""
    rows = []
    for system, lines in measured.items():
        for group in GROUPS:
            shares = [_shares(line["called"], group) for line in lines]
            row = {"system": system, "look-alikes": ", ".join(group)}
            row |= {key: with_interval(share[key] for share in shares) for key in shares[0]}
            rows.append(row)
    return rows


def _shares(called: dict[str, dict[str, int]], group: tuple[str, ...]) -> dict[str, float]:
    objects = sum(sum(called[name].values()) for name in group)
    found = objects - sum(called[name].get("", 0) for name in group)
    right = sum(called[name].get(name, 0) for name in group)
    alike = sum(called[name].get(other, 0) for name in group for other in group) - right
    return {
        "found, %": 100 * found / objects,
        "of these called right, %": 100 * right / max(found, 1),
        "called a look-alike, %": 100 * alike / max(found, 1),
    }


def recall_rows(recorded: Lines, key: str) -> list[dict[str, str]]:
    return [
        {"system": system}
        | {
            group: f"{statistics.mean(line[key][group] for line in lines):.1f}"
            for group, recall in lines[0][key].items()
            if recall is not None
        }
        for system, lines in recorded.items()
    ]


def probe_rows(probed: Lines) -> list[dict[str, str]]:
    return [
        {
            "system": system,
            "seeds": str(len(lines)),
            "a bus far away, AUC in %": with_interval(100 * line["bus_auc"] for line in lines),
            "the classes' shares, explained variance in %": with_interval(
                100 * line["shares_r2"] for line in lines
            ),
        }
        for system, lines in probed.items()
    ]
