"""Tables and figures of a grid's results, beside what the papers report."""

import argparse
import math

import yaml
from matplotlib.figure import Figure
from tabulate import tabulate

from .compare import KINDS, Estimate, Results, from_seeds
from .grid import ROOT, Grid, load_grid, load_module
from .results import accepted

CONFIGS = ROOT / "configs"
COLUMNS = {"box": ("AP", "APs", "APm", "APl"), "mask": ("AP", "APs")}
COMPARED = ("AP", "APs")
OURS, THEIRS = "#0072B2", "#666666"
NOTES = """\
In percent. Intervals are 95 %: ± over seeds, by Student's t; in brackets, for a single seed, over
test images, by a paired bootstrap, which says nothing about another seed. *Papers* are the numbers
that Levi and Ullman report, not measured here. *Ours − theirs* is our difference to the baseline
minus theirs.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description="Draws tables and figures of grids' results.")
    parser.add_argument("grids", nargs="+", help="files of experiments/")
    parser.add_argument("--output", help="where the grid's runs are, if run.py was told")
    args = parser.parse_args()
    grids = [load_grid(file, args.output) for file in args.grids]
    # Grids that are reported together name the same module.
    for module in dict.fromkeys(grid.report for grid in grids if grid.report):
        load_module(module).write()
    for grid in grids:
        if not grid.report:
            print(write(grid))


def write(grid: Grid) -> str:
    """Writes report.md and report.png into the grid's folder of runs; gives the former."""
    lines, refused = accepted(grid)
    results = Results(grid, lines)
    parts = [f"# {grid.title}\n", NOTES] if lines else [f"# {grid.title}\n", "No results yet.\n"]
    parts += [table for setting in results.settings() for table in tables(results, setting)]
    parts += [
        f"Left out, {run.name}: it comes from other {', '.join(differences)}.\n"
        for run, differences in refused.items()
    ]
    text = "\n".join(parts)
    grid.output.mkdir(parents=True, exist_ok=True)
    (grid.output / "report.md").write_text(text)
    if lines:
        draw(results).savefig(grid.output / "report.png")
    return f"{text}\n{grid.output / 'report.md'} and report.png are written"


# ---------------------------------------------------------------------------- the papers


def papers_results(grid: Grid) -> dict[str, dict]:
    """What the papers report, by our systems' names; empty for those that they don't have."""
    known = yaml.safe_load(grid.papers.read_text()) if grid.papers else {}
    return {system: known.get(config_name(grid, system), {}) for system in grid.systems}


def config_name(grid: Grid, system: str) -> str:
    """The system's configuration below configs/, as "ablations_600px/rcnn_R50"."""
    config = grid.config_of(system).with_suffix("")
    return config.relative_to(CONFIGS).as_posix() if config.is_relative_to(CONFIGS) else ""


def papers_value(papers: dict[str, dict], system: str, kind: str, metric: str) -> float | None:
    values = dict(zip(COLUMNS[kind], papers[system].get(kind, [])))
    return values.get(metric)


# ---------------------------------------------------------------------------- tables


def tables(results: Results, setting: tuple[str, str]) -> list[str]:
    """Of one setting: the boxes' table, and the masks' where there are any."""
    title = ", ".join(part for part in setting if part)
    return [
        f"## {title}, {kind}\n\n{_table(results, setting, kind)}\n"
        for kind in KINDS
        if results.has(setting, kind)
    ]


def _table(results: Results, setting: tuple[str, str], kind: str) -> str:
    papers = papers_results(results.grid)
    rows = []
    for system, by_seed in results.runs(setting).items():
        row = {"system": system, "seeds": str(len(by_seed))}
        for metric in COLUMNS[kind]:
            row[metric] = _shown(results.estimate(setting, system, kind, metric))
        for metric in COMPARED:
            ours = results.difference(setting, system, kind, metric)
            row[f"{metric} to baseline"] = _shown(ours, "+")
            row |= _beside(results.grid, papers, system, kind, metric, ours)
        rows.append(row)
    shown = [key for key in rows[0] if any(row[key] for row in rows)]
    rows = [{key: row[key] for key in shown} for row in rows]
    return tabulate(rows, headers="keys", tablefmt="github", disable_numparse=True)


def _beside(
    grid: Grid, papers: dict, system: str, kind: str, metric: str, ours: Estimate | None
) -> dict[str, str]:
    """The papers' cells of a row: their number, their difference, and ours minus it."""
    value = papers_value(papers, system, kind, metric)
    baseline = grid.baseline_of(system)
    at_baseline = papers_value(papers, baseline, kind, metric) if baseline else None
    theirs = None if None in (value, at_baseline) else value - at_baseline
    both = None if ours is None or theirs is None else ours.minus(theirs)
    return {
        f"papers: {metric}": "" if value is None else f"{value:.2f}",
        f"papers: {metric} to baseline": "" if theirs is None else f"{theirs:+.2f}",
        f"{metric}, ours − theirs": _shown(both, "+"),
    }


def _shown(estimate: Estimate | None, sign: str = "") -> str:
    if estimate is None:
        return ""
    text = f"{estimate.value:{sign}.2f}"
    if math.isnan(estimate.low):
        return text
    if estimate.over == "seeds":
        return f"{text} ± {(estimate.high - estimate.low) / 2:.2f}"
    return f"{text} [{estimate.low:{sign}.2f}, {estimate.high:{sign}.2f}]"


def measured_ap(grid: Grid) -> dict[str, str]:
    """AP and APs of boxes, and of masks, by the configuration's name: of the model table."""
    lines, _ = accepted(grid)
    results = Results(grid, lines)
    shown = {}
    for setting in reversed(results.settings()):  # the grid's first schedule has the last word
        for system in results.runs(setting):
            parts = []
            for kind in KINDS:
                if results.has(setting, kind):
                    values = [results.values(setting, system, kind, metric) for metric in COMPARED]
                    aps = " / ".join(f"{from_seeds(list(v.values())).value:.2f}" for v in values)
                    parts.append(f"{kind} {aps}")
            shown[config_name(grid, system)] = ", ".join(parts)
    return shown


# ---------------------------------------------------------------------------- figure


def draw(results: Results) -> Figure:
    """Each system's differences to its baseline, ours and the papers'."""
    grid, settings = results.grid, results.settings()
    papers = papers_results(grid)
    systems = [name for name in grid.systems if grid.baseline_of(name)]
    figure = Figure(
        figsize=(3.5 + 3 * len(COMPARED), len(settings) * (1.2 + 0.3 * len(systems))),
        dpi=150,
        layout="constrained",
    )
    all_axes = figure.subplots(len(settings), len(COMPARED), sharey=True, squeeze=False)
    for setting, row in zip(settings, all_axes):
        for metric, axes in zip(COMPARED, row):
            for place, system in enumerate(systems):
                _draw_difference(axes, place, results, papers, setting, system, metric)
            axes.axvline(0, color=THEIRS, lw=0.8)
            axes.set_xlabel(f"{metric} to baseline")
            axes.set_title(", ".join(part for part in setting if part), fontsize=10)
    all_axes[0][0].set_yticks(range(len(systems)), systems)
    all_axes[0][0].set_ylim(len(systems) - 0.5, -0.5)
    handles = dict(zip(*reversed(all_axes[0][0].get_legend_handles_labels())))
    if handles:
        figure.legend(handles.values(), handles, loc="outside lower center", ncols=2)
    return figure


def _draw_difference(axes, place, results, papers, setting, system, metric) -> None:
    ours = results.difference(setting, system, "box", metric)
    if ours is not None:
        wide = not math.isnan(ours.low)
        reach = [[ours.value - ours.low], [ours.high - ours.value]] if wide else None
        axes.errorbar(
            ours.value, place, xerr=reach, fmt="D", color=OURS, capsize=4, label="here, 95 %"
        )
    baseline = results.grid.baseline_of(system)
    values = [papers_value(papers, name, "box", metric) for name in (system, baseline)]
    if None not in values:
        style = {"ls": "", "marker": "o", "mfc": "white", "mec": THEIRS, "zorder": 3}
        axes.plot(values[0] - values[1], place, label="the papers'", **style)
