"""The trained runs of the two grids, for what looks at them afterwards."""

import sys
from pathlib import Path

from detectron2.config import CfgNode
from runner.grid import Grid, Run, load_grid

from enl_detectron2.training.data import register_coco_format

FOLDER = Path(__file__).resolve().parents[1]
RESULTS = FOLDER / "results"
BASELINE, PROPOSED = "baseline", "+3ENL TD"


def grid(name: str) -> Grid:
    """ "digits" or "nuclei"."""
    return load_grid(FOLDER / f"{name}.yaml")


def compared(of: Grid, data: str, *variants: str) -> list[Run]:
    """The runs of the baseline and of the proposed system in these settings."""
    return [
        run
        for variant in variants
        for system in (BASELINE, PROPOSED)
        for run in sorted(of.runs(), key=lambda each: each.seed)
        if (run.system, run.data, run.variant) == (system, data, variant)
    ]


def require_trained(of: Grid, runs: list[Run]) -> None:
    """Ends the program unless the weights of all of them are there."""
    missing = [run.name for run in runs if not of.weights(run).exists()]
    if missing:
        sys.exit(f"not trained yet, run.py {of.file.name} does that: {', '.join(missing)}")


def trained_configuration(of: Grid, run: Run, tested_as: Run | None = None) -> CfgNode:
    """A run's configuration with the weights that it ended with, its data there.

    Args:
        of: the grid.
        run: a trained one.
        tested_as: another run, whose data is taken; its own if None.
    """
    of.register()
    of.prepare(tested_as or run)
    cfg = of.configuration(tested_as or run)
    cfg.MODEL.WEIGHTS = str(of.weights(run))
    register_coco_format(cfg.DATASETS.COCO_FORMAT)
    return cfg
