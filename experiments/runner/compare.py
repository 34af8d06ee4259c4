"""Results of a grid by setting and system, and their differences with intervals."""

import contextlib
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from detectron2.data import MetadataCatalog
from pycocotools.coco import COCO

from enl_detectron2.training.data import register_coco_format

from .bootstrap import SIZES, Bootstrap, draw, evaluate, percentiles
from .grid import Grid, Run
from .statistics import interval

KINDS = {"box": ("metrics", "bbox"), "mask": ("mask_metrics", "segm")}  # in lines, for COCOeval
RESAMPLED = ("AP", "APs")
COCO_LIMIT = 100  # detections an image

Setting = tuple[str, str]


@dataclass(frozen=True)
class Estimate:
    """A number and its 95 % interval, NaN if there is none.

    Attributes:
        over: what it would vary over: "seeds", or "images" of the test, or "".
    """

    value: float
    low: float = math.nan
    high: float = math.nan
    over: str = ""

    def minus(self, number: float) -> "Estimate":
        return Estimate(self.value - number, self.low - number, self.high - number, self.over)


def from_seeds(values: Sequence[float]) -> Estimate:
    """The mean, with the interval of Student's t."""
    mean, half = interval(values)
    return Estimate(mean, mean - half, mean + half, "seeds" if len(values) > 1 else "")


class Results:
    """The accepted lines of a grid.

    Args:
        grid: that they belong to.
        lines: see :mod:`.results`.
    """

    def __init__(self, grid: Grid, lines: list[dict]):
        self.grid = grid
        self._lines = {Run(**line["run"]): line for line in lines}
        self._resampled: dict[tuple[Run, str], dict[str, np.ndarray] | None] = {}

    def settings(self) -> list[Setting]:
        """The data and the variant of all runs, in the grid's order."""
        found = {(run.data, run.variant) for run in self._lines}
        every = [(data, variant) for data in self.grid.data for variant in self.grid.variants]
        return [setting for setting in every if setting in found]

    def runs(self, setting: Setting) -> dict[str, dict[int, Run]]:
        """The runs of one setting: for each system, by seed."""
        found: dict[str, dict[int, Run]] = {}
        for system in self.grid.systems:
            for run in self._lines:
                if (run.system, run.data, run.variant) == (system, *setting):
                    found.setdefault(system, {})[run.seed] = run
        return found

    def has(self, setting: Setting, kind: str) -> bool:
        key, _ = KINDS[kind]
        return any(
            key in self._lines[run]
            for by_seed in self.runs(setting).values()
            for run in by_seed.values()
        )

    def values(self, setting: Setting, system: str, kind: str, metric: str) -> dict[int, float]:
        """A metric in percent by seed; without those that have no such objects."""
        key, _ = KINDS[kind]
        runs = self.runs(setting).get(system, {})
        found = {
            seed: self._lines[run].get(key, {}).get(metric) for seed, run in sorted(runs.items())
        }
        return {seed: value for seed, value in found.items() if value is not None}

    def estimate(self, setting: Setting, system: str, kind: str, metric: str) -> Estimate | None:
        """A system's metric; None if it has none."""
        values = list(self.values(setting, system, kind, metric).values())
        if len(values) != 1 or metric not in RESAMPLED:
            return from_seeds(values) if values else None
        [run] = self.runs(setting)[system].values()
        samples = self.resampled(run, kind)
        if samples is None:
            return Estimate(values[0])
        return Estimate(values[0], *percentiles(samples[metric]), "images")

    def difference(self, setting: Setting, system: str, kind: str, metric: str) -> Estimate | None:
        """A system's metric minus its baseline's, paired by seed, or by image for one seed; None
        if the two have no seed in common."""
        baseline = self.grid.baseline_of(system)
        if baseline is None:
            return None
        ours, theirs = (self.values(setting, name, kind, metric) for name in (system, baseline))
        common = [seed for seed in ours if seed in theirs]
        differences = [ours[seed] - theirs[seed] for seed in common]
        if len(common) != 1:
            return from_seeds(differences) if common else None
        runs = self.runs(setting)
        ours, theirs = (self.resampled(runs[name][common[0]], kind) for name in (system, baseline))
        if ours is None or theirs is None:
            return Estimate(differences[0])
        moved = ours[metric] - theirs[metric]
        return Estimate(differences[0], *percentiles(moved), "images")

    def resampled(self, run: Run, kind: str) -> dict[str, np.ndarray] | None:
        """AP and APs on resamples of the test images, the same for all runs; None if the run's
        detections aren't here."""
        if (run, kind) not in self._resampled:
            self._resampled[run, kind] = _resampled(self.grid, run, KINDS[kind][1])
        return self._resampled[run, kind]


def _resampled(grid: Grid, run: Run, kind: str) -> dict[str, np.ndarray] | None:
    detections = grid.folder(run) / "inference" / "coco_instances_results.json"
    if not detections.exists():
        return None
    kept = detections.with_name(f"resampled_{kind}.npz")
    if kept.exists() and kept.stat().st_mtime_ns > detections.stat().st_mtime_ns:
        with np.load(kept) as file:
            return dict(file)
    cfg = grid.configuration(run)
    register_coco_format(cfg.DATASETS.COCO_FORMAT)
    with contextlib.redirect_stdout(io.StringIO()):
        annotations = COCO(MetadataCatalog.get(cfg.DATASETS.TEST[0]).json_file)
    limit = max(COCO_LIMIT, cfg.TEST.DETECTIONS_PER_IMAGE)
    evaluation = evaluate(annotations, detections, kind, limit)
    draws = draw(len(evaluation.params.imgIds))
    samples = {
        metric: Bootstrap(evaluation, SIZES[metric]).resampled(draws) for metric in RESAMPLED
    }
    np.savez(kept, **samples)
    return samples
