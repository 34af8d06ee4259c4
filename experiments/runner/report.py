"""Tables and figures of a grid's results, beside what the papers report."""

import argparse
import contextlib
import functools
import io
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
import yaml
from detectron2.data import MetadataCatalog
from matplotlib.figure import Figure
from pycocotools.coco import COCO
from tabulate import tabulate

from enl_detectron2.training.data import register_coco_format

from .bootstrap import SIZES, Bootstrap, draw, evaluate, percentiles, remembered
from .grid import ROOT, Grid, Run, load_grid, load_module
from .results import accepted, by_system
from .statistics import interval

CONFIGS = ROOT / "configs"
KINDS = {"box": ("metrics", "bbox"), "mask": ("mask_metrics", "segm")}  # in lines, for COCOeval
COLUMNS = {"box": ("AP", "APs", "APm", "APl"), "mask": ("AP", "APs")}
COMPARED = ("AP", "APs")  # what a single seed's interval over images is made of, too
COCO_LIMIT = 100  # detections an image
OURS, THEIRS = "#0072B2", "#666666"
NOTES = """\
In percent. Intervals are 95 %: ± over seeds, by Student's t; in brackets, for a single seed, over
test images, by a paired bootstrap, which says nothing about another seed. *Papers* are the numbers
that Levi and Ullman report, not measured here. *Ours − theirs* is our difference to the baseline
minus theirs.
"""

Setting = tuple[str, str]


def main() -> None:
    parser = argparse.ArgumentParser(description="Draws tables and figures of grids' results.")
    parser.add_argument("grids", nargs="+", help="files of experiments/")
    parser.add_argument("--output", help="where the grid's runs are, if run.py was given it")
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
    results = Results(grid)
    parts = [f"# {grid.title}\n", NOTES if results.lines else "No results yet.\n"]
    for setting in results.settings():
        title = ", ".join(part for part in setting if part)
        parts += [
            f"## {title}, {kind}\n\n{_table(results, setting, kind)}\n"
            for kind in KINDS
            if results.has(setting, kind)
        ]
    parts += [
        f"Left out, {run.name}: it comes from other {', '.join(differences)}.\n"
        for run, differences in results.refused.items()
    ]
    text = "\n".join(parts)
    grid.output.mkdir(parents=True, exist_ok=True)
    (grid.output / "report.md").write_text(text)
    if results.lines:
        draw_differences(results).savefig(grid.output / "report.png")
    return f"{text}\n{grid.output / 'report.md'} and report.png are written"


# ---------------------------------------------------------------------------- results


class Estimate(NamedTuple):
    """A number and its 95 % interval, NaN if there is none, over several seeds or else images."""

    value: float
    low: float = math.nan
    high: float = math.nan
    over_seeds: bool = False

    def minus(self, number: float) -> "Estimate":
        return self._replace(**{key: getattr(self, key) - number for key in self._fields[:3]})

    def shown(self, sign: str = "") -> str:
        text = f"{self.value:{sign}.2f}"
        if math.isnan(self.low):
            return text
        if self.over_seeds:
            return f"{text} ± {(self.high - self.low) / 2:.2f}"
        return f"{text} [{self.low:{sign}.2f}, {self.high:{sign}.2f}]"


class Results:
    """The lines of a grid that come from what it names."""

    def __init__(self, grid: Grid):
        self.grid = grid
        self.lines, self.refused = accepted(grid)

    def settings(self) -> list[Setting]:
        """The data and the variant of all lines, in the grid's order."""
        found = {(line["run"]["data"], line["run"]["variant"]) for line in self.lines}
        every = [(data, variant) for data in self.grid.data for variant in self.grid.variants]
        return [setting for setting in every if setting in found]

    def systems(self, setting: Setting) -> dict[str, dict[int, dict]]:
        """The lines of one setting: for each system, by seed."""
        return by_system(self.grid.systems, self.lines, *setting)

    def has(self, setting: Setting, kind: str) -> bool:
        key, _ = KINDS[kind]
        of_systems = self.systems(setting).values()
        return any(key in line for by_seed in of_systems for line in by_seed.values())

    def values(self, setting: Setting, system: str, kind: str, metric: str) -> dict[int, float]:
        """A metric in percent by seed; without those that have no such objects."""
        key, _ = KINDS[kind]
        lines = self.systems(setting).get(system, {})
        found = {seed: line.get(key, {}).get(metric) for seed, line in lines.items()}
        return {seed: value for seed, value in found.items() if value is not None}

    def estimate(
        self, setting: Setting, system: str, kind: str, metric: str, minus: str | None = None
    ) -> Estimate | None:
        """A system's metric, or its difference to that of the system ``minus``, paired by seed, or
        by image for one seed; None if there is none."""
        values = self.values(setting, system, kind, metric)
        if minus is not None:
            others = self.values(setting, minus, kind, metric)
            values = {seed: values[seed] - others[seed] for seed in values if seed in others}
        if not values:
            return None
        if len(values) > 1:
            mean, half = interval(values.values())
            return Estimate(mean, mean - half, mean + half, over_seeds=True)
        [(seed, value)] = values.items()
        names = [system] if minus is None else [system, minus]
        samples = [self.resampled(Run(name, *setting, seed), kind) for name in names]
        if metric not in COMPARED or None in samples:
            return Estimate(value)
        moved = functools.reduce(np.subtract, (sample[metric] for sample in samples))
        return Estimate(value, *percentiles(moved))

    @functools.cache  # noqa: B019, a report's results live as long as its process
    def resampled(self, run: Run, kind: str) -> dict[str, np.ndarray] | None:
        """AP and APs on resamples of the test images, the same for all runs; None if the run's
        detections aren't here."""
        _, kind = KINDS[kind]
        detections = self.grid.folder(run) / "inference" / "coco_instances_results.json"
        if not detections.exists():
            return None
        kept = detections.with_name(f"resampled_{kind}.npz")
        return remembered(kept, detections, lambda: self._resample(run, detections, kind))

    def _resample(self, run: Run, detections: Path, kind: str) -> dict[str, np.ndarray]:
        cfg = self.grid.configuration(run)
        register_coco_format(cfg.DATASETS.COCO_FORMAT)
        with contextlib.redirect_stdout(io.StringIO()):
            annotations = COCO(MetadataCatalog.get(cfg.DATASETS.TEST[0]).json_file)
        limit = max(COCO_LIMIT, cfg.TEST.DETECTIONS_PER_IMAGE)
        evaluation = evaluate(annotations, detections, kind, limit)
        draws = draw(len(evaluation.params.imgIds))
        return {
            metric: Bootstrap(evaluation, SIZES[metric]).resampled(draws) for metric in COMPARED
        }


# ---------------------------------------------------------------------------- the papers


def papers_results(grid: Grid) -> dict[str, dict]:
    """What the papers report, by our systems' names; empty for those that they don't have."""
    known = yaml.safe_load(grid.papers.read_text()) if grid.papers else {}
    return {system: known.get(config_name(grid, system), {}) for system in grid.systems}


def config_name(grid: Grid, system: str) -> str:
    """The system's configuration below configs/, as "ablations_600px/rcnn_R50"."""
    config = grid.config_of(system).with_suffix("")
    return config.relative_to(CONFIGS).as_posix() if config.is_relative_to(CONFIGS) else ""


def papers_value(papers: dict[str, dict], system: str | None, kind: str, metric: str):
    """A number, None if the papers don't have it."""
    return dict(zip(COLUMNS[kind], papers.get(system, {}).get(kind, []))).get(metric)


def papers_difference(grid: Grid, papers: dict, system: str, kind: str, metric: str):
    """To the system's baseline; None if the papers don't have both."""
    names = system, grid.baseline_of(system)
    value, at_baseline = (papers_value(papers, name, kind, metric) for name in names)
    return None if None in (value, at_baseline) else value - at_baseline


# ---------------------------------------------------------------------------- tables and figure


def _table(results: Results, setting: Setting, kind: str) -> str:
    grid, papers = results.grid, papers_results(results.grid)
    rows = []
    for system, by_seed in results.systems(setting).items():
        row = {"system": system, "seeds": str(len(by_seed))}
        for metric in COLUMNS[kind]:
            estimate = results.estimate(setting, system, kind, metric)
            row[metric] = estimate.shown() if estimate else ""
        for metric in COMPARED:
            baseline = grid.baseline_of(system)
            ours = baseline and results.estimate(setting, system, kind, metric, minus=baseline)
            value = papers_value(papers, system, kind, metric)
            theirs = papers_difference(grid, papers, system, kind, metric)
            row[f"{metric} to baseline"] = ours.shown("+") if ours else ""
            row[f"papers: {metric}"] = "" if value is None else f"{value:.2f}"
            row[f"papers: {metric} to baseline"] = "" if theirs is None else f"{theirs:+.2f}"
            both = (
                Estimate(*(each - theirs for each in ours[:3]), ours[3])
                if ours and theirs is not None
                else ""
            )
            row[f"{metric}, ours − theirs"] = both and both.shown("+")
        rows.append(row)
    shown = [key for key in rows[0] if any(row[key] for row in rows)]
    rows = [{key: row[key] for key in shown} for row in rows]
    return tabulate(rows, headers="keys", tablefmt="github", disable_numparse=True)


def measured_ap(grid: Grid) -> dict[str, str]:
    """AP and APs of boxes, and of masks, by the configuration's name: of the model table."""
    results = Results(grid)
    shown = {}
    for setting in reversed(results.settings()):  # the grid's first schedule has the last word
        for system in results.systems(setting):
            parts = []
            for kind in KINDS:
                if results.has(setting, kind):
                    values = [results.values(setting, system, kind, metric) for metric in COMPARED]
                    aps = " / ".join(f"{interval(v.values())[0]:.2f}" for v in values)
                    parts.append(f"{kind} {aps}")
            shown[config_name(grid, system)] = ", ".join(parts)
    return shown


def draw_differences(results: Results) -> Figure:
    """Each system's differences to its baseline, ours and the papers'."""
    grid, settings, papers = results.grid, results.settings(), papers_results(results.grid)
    systems = [name for name in grid.systems if grid.baseline_of(name)]
    figure = Figure(
        figsize=(3.5 + 3 * len(COMPARED), len(settings) * (1.2 + 0.3 * len(systems))),
        dpi=150,
        layout="constrained",
    )
    all_axes = figure.subplots(len(settings), len(COMPARED), sharey=True, squeeze=False)
    style = {"ls": "", "marker": "o", "mfc": "white", "mec": THEIRS, "zorder": 3}
    for setting, row in zip(settings, all_axes):
        for metric, axes in zip(COMPARED, row):
            for place, name in enumerate(systems):
                ours = results.estimate(setting, name, "box", metric, minus=grid.baseline_of(name))
                if ours is not None:
                    reach = [[ours.value - ours.low], [ours.high - ours.value]]
                    reach = None if math.isnan(ours.low) else reach
                    style_of_ours = {"fmt": "D", "color": OURS, "capsize": 4}
                    axes.errorbar(
                        ours.value, place, xerr=reach, label="here, 95 %", **style_of_ours
                    )
                theirs = papers_difference(grid, papers, name, "box", metric)
                if theirs is not None:
                    axes.plot(theirs, place, label="the papers'", **style)
            axes.axvline(0, color=THEIRS, lw=0.8)
            axes.set_xlabel(f"{metric} to baseline")
            axes.set_title(", ".join(part for part in setting if part), fontsize=10)
    all_axes[0][0].set_yticks(range(len(systems)), systems)
    all_axes[0][0].set_ylim(len(systems) - 0.5, -0.5)
    handles = dict(zip(*reversed(all_axes[0][0].get_legend_handles_labels())))
    if handles:
        figure.legend(handles.values(), handles, loc="outside lower center", ncols=2)
    return figure
