"""The report of the digits and the nuclei, which belong together.

``write`` makes docs/relations.png and the tables of docs/relations.md; none of them is typed by
hand.
"""

import json
import math
import statistics

import matplotlib.pyplot as plt
from runner.results import accepted, read_lines
from runner.statistics import interval, with_interval
from tabulate import tabulate

from relations.scenes import IMAGE_SIZE, LEVELS, MAIN_LEVEL, MAIN_RELATION
from relations.trained import BASELINE, RESULTS, grid

PAGE = RESULTS.parents[1] / "docs" / "relations.md"
PICTURE = PAGE.with_suffix(".png")
MARKERS = "<!-- written by experiments/report.py -->\n", "<!-- end -->"
SYSTEMS = list(grid("digits").systems)  # the nuclei's are among them
METRICS = ("AP", "AP50", "APs", "APm")
COLOUR = "#0072B2"
MOST_COLUMNS = 4  # of the picture, or its text gets too small on a page

Record = dict


def write() -> None:
    """Writes tables and picture from the lines of all runs."""
    records = []
    for name in ("digits", "nuclei"):
        lines, refused = accepted(grid(name))
        records += lines
        for run, differences in refused.items():
            print(f"left out, {run.name}: it comes from other {', '.join(differences)}")
    measured = {
        name: json.loads((RESULTS / f"{name}.json").read_text())
        for name in ("headroom", "scene_class", "transfer", "batch_norm")
    }
    tables = report(records, probe=read_lines(RESULTS / "probe.jsonl"), **measured)
    page = PAGE.read_text()
    start, end = (page.index(marker) for marker in MARKERS)
    PAGE.write_text(page[:start] + MARKERS[0] + tables + page[end:])
    draw(records).savefig(PICTURE)
    print(f"{PAGE} and {PICTURE} are written")


def settings(records: list[Record]) -> list[tuple[str, str]]:
    """The data and the variant of all runs: the main one, then the main level's others, the other
    levels', and nuclei last."""
    found = {(r["run"]["data"], r["run"]["variant"]) for r in records}

    def place(each: tuple[str, str]) -> tuple:
        data, variant = each
        return data not in LEVELS, data != MAIN_LEVEL, variant != MAIN_RELATION, each

    return sorted(found, key=place)


def setting(records: list[Record], data: str, variant: str) -> dict[str, dict[int, Record]]:
    """The runs of one setting: for each system, by seed."""
    runs: dict[str, dict[int, Record]] = {}
    for record in records:
        run = record["run"]
        if (run["data"], run["variant"]) == (data, variant):
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


def report(
    records: list[Record],
    headroom: dict[str, dict[str, float]],
    probe: list[Record],
    scene_class: list[Record],
    transfer: list[Record],
    batch_norm: list[Record],
) -> str:
    parts = [
        section(
            f"Headroom: the share of tiny digits that a classifier tells right, {IMAGE_SIZE} px",
            [{"level": level} | shares(row) for level, row in headroom.items()],
        ),
        section("The probe: what wakes one block", [probe_row(line) for line in probe]),
    ]
    for data, variant in settings(records):
        runs = setting(records, data, variant)
        rows = [system_row(runs, system) for system in runs]
        parts.append(section(heading(data, variant), rows))
    for data, variant in settings(records):
        if (data, variant) == (MAIN_LEVEL, MAIN_RELATION) or data not in LEVELS:
            runs = setting(records, data, variant)
            for key, title in (
                ("recall_by_side", "recall by box side, px"),
                ("recall_by_count", "recall of small objects by the number of their class"),
            ):
                rows = [means(runs, system, key) for system in runs]
                parts.append(section(f"{heading(data, variant)}: {title}", rows))
    rows = [
        scene_class_row(variant, system, list(by_seed.values()))
        for data, variant in settings(scene_class)
        for system, by_seed in setting(scene_class, data, variant).items()
    ]
    parts.append(section("What a cell of P2 knows of its scene's class", rows))
    title = f"Digits, {MAIN_LEVEL}: trained on {MAIN_RELATION}, tested on scenes of other relations"
    parts.append(section(title, retest_rows(transfer, "tested_on")))
    title = "Nuclei, scratch: tested with other statistics of batch norm"
    parts.append(section(title, retest_rows(batch_norm, "batch_norm")))
    return "\n".join(parts)


def heading(data: str, variant: str) -> str:
    return f"Digits, {data}, {variant}" if data in LEVELS else f"Nuclei, {variant}"


def probe_row(line: Record) -> dict[str, str]:
    recipe = line["recipe"]
    return {
        "block": recipe["block"] or "none",
        "optimizer": f"{recipe['optimizer']}, {recipe['rate']}",
        "block's rate": f"× {recipe['rate_factor']:g}" if recipe["block"] else "",
        "σ": f"{recipe['init_std']:g}" if recipe["block"] else "",
        "before the block": ", ".join(["1×1"] * recipe["lateral"] + [recipe["norm"]]).strip(", "),
        "steps": str(recipe["steps"]),
        "accuracy": f"{100 * line['accuracy']:.0f} %",
        "added ÷ input at the end": f"{line['ratios'][-1]:.2f}" if recipe["block"] else "",
    }


def scene_class_row(variant: str, system: str, lines: list[Record]) -> dict[str, str]:
    row = {"variant": variant, "system": system, "seeds": str(len(lines))}
    for place in lines[0]["accuracy"]:
        row[f"told right at {place}"] = (
            with_interval(100 * line["accuracy"][place] for line in lines) + " %"
        )
    return row


def retest_rows(lines: list[Record], key: str) -> list[dict[str, str]]:
    """Of runs of one setting, each tested in several ways that ``key`` names: a row a system."""
    rows = []
    for way in dict.fromkeys(line[key] for line in lines):
        of_way = [line for line in lines if line[key] == way]
        [(data, variant)] = settings(of_way)
        runs = setting(of_way, data, variant)
        for system, by_seed in runs.items():
            row = {key.replace("_", " "): way, "system": system, "seeds": str(len(by_seed))}
            row["APs"] = with_interval(line["metrics"]["APs"] for line in by_seed.values())
            rows.append(row | {"APs to baseline, paired": difference(runs, system)})
    return rows


def section(title: str, rows: list[dict]) -> str:
    body = tabulate(rows, headers="keys", tablefmt="github", disable_numparse=True)
    return f"### {title}\n\n{body}\n"


def shares(row: dict[str, float]) -> dict[str, str]:
    return {name: f"{100 * value:.0f} %" for name, value in row.items()}


def system_row(runs: dict[str, dict[int, Record]], system: str) -> dict[str, str]:
    of_system = list(runs[system].values())
    row = {"system": system, "seeds": str(len(of_system))}
    for metric in METRICS:
        values = [record["metrics"][metric] for record in of_system]
        row[metric] = "–" if None in values else with_interval(values)
    row["APs to baseline, paired"] = difference(runs, system)
    added = [value for record in of_system for value in record["added_by_blocks"].values()]
    row["added ÷ input"] = f"{statistics.mean(added):.2f}" if added else ""
    row["parameters, M"] = f"{of_system[0]['parameters'] / 1e6:.3f}"
    row["multiply-adds, G"] = f"{of_system[0]['multiply_adds'] / 1e9:.3f}"
    return row


def difference(runs: dict[str, dict[int, Record]], system: str) -> str:
    """A system's difference to the baseline in APs; empty for the baseline itself."""
    differences = paired(runs, system, "APs")
    return with_interval(differences, sign="+") if differences and system != BASELINE else ""


def means(runs: dict[str, dict[int, Record]], system: str, key: str) -> dict[str, str]:
    of_system = [record[key] for record in runs[system].values()]
    row = {"system": system}
    for group, recall in of_system[0].items():
        if recall is not None:  # the same objects for all, so None for all or for none
            row[group] = f"{statistics.mean(recalls[group] for recalls in of_system):.1f}"
    return row


# ---------------------------------------------------------------------------- picture


def draw(records: list[Record]) -> plt.Figure:
    """Each system's paired difference to the baseline, a point a seed and their interval."""
    shown = settings(records)
    names = {record["run"]["system"] for record in records} - {BASELINE}
    systems = [system for system in SYSTEMS if system in names]
    columns = min(len(shown), MOST_COLUMNS)
    rows = math.ceil(len(shown) / columns)
    figure, all_axes = plt.subplots(
        rows,
        columns,
        figsize=(3 + 2.2 * columns, rows * (1.2 + 0.3 * len(systems))),
        dpi=150,
        layout="constrained",
        sharex=True,
        sharey=True,
        squeeze=False,
    )
    for axes in all_axes.flat[len(shown) :]:
        axes.set_visible(False)
    for axes, (data, variant) in zip(all_axes.flat, shown):
        runs = setting(records, data, variant)
        for place, system in enumerate(systems):
            differences = paired(runs, system, "APs") if system in runs else []
            if not differences:
                continue
            mean, half = interval(differences)
            axes.errorbar(mean, place, xerr=half, fmt="D", color=COLOUR, capsize=4)
            seeds = {"marker": "o", "ms": 3.5, "mfc": "white", "mec": "black", "zorder": 3}
            axes.plot(differences, [place] * len(differences), ls="", **seeds)
        axes.axvline(0, color="#666666", lw=0.8)
        axes.set_title(heading(data, variant).replace(", ", "\n", 1), fontsize=10)
        axes.set_xlabel("APs to baseline")
        axes.tick_params(labelbottom=True)  # what's below may be empty
    all_axes[0][0].set_yticks(range(len(systems)), systems)  # of all, as they share the axis
    all_axes[0][0].invert_yaxis()
    return figure
