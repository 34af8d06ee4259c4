"""What trained detectors find under other circumstances: other scenes, other batch norm.

    cd experiments; python -m relations.retests transfer      # needs the digits' trainings
    cd experiments; python -m relations.retests batch_norm    # needs the nuclei's

``transfer``: the main setting's detectors learned where tiny digits repeat and mostly have a large
relative, too. Tested where only one of the two is there, they show which one they read; and where
each tiny digit's class is drawn by itself, a system that reads others' classes must be misled.

``batch_norm``: it trains on the statistics of its batch and is tested with running means of them,
which lag behind weights that still move fast. Here the trained weights stay, and the statistics are
those of training images under these weights, as detectron2's TEST.PRECISE_BN takes them.

Each takes some 15 minutes and writes results/<its name>.json.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from cells import trained, trained_configuration
from detectron2.utils.events import EventStorage
from fvcore.nn import update_bn_stats
from runner.grid import Grid, Run, load_grid

from enl_detectron2.analysis.detector import load_detector
from enl_detectron2.training.trainer import Trainer

from .scenes import MAIN_LEVEL, MAIN_RELATION, RELATIONS

FOLDER = Path(__file__).resolve().parents[1]
RESULTS = FOLDER / "results"
BATCHES = 150


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", choices=["transfer", "batch_norm"])
    name = parser.parse_args().name
    rows = []
    for row in transfer() if name == "transfer" else batch_norm():
        rows.append(row)
        print(row, flush=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(rows, indent=1) + "\n")


def compared(name: str, data: str, *variants: str) -> tuple[Grid, list[Run]]:
    """A grid, and its runs of the baseline and of ENL in these settings, which must be trained."""
    grid = load_grid(FOLDER / f"{name}.yaml")
    runs = [
        run
        for variant in variants
        for system in ("baseline", "+3ENL TD")
        for run in sorted(grid.runs(), key=lambda each: each.seed)
        if (run.system, run.data, run.variant) == (system, data, variant)
    ]
    if missing := [run.name for run in runs if not grid.weights(run).exists()]:
        sys.exit(f"not trained yet, run.py {grid.file.name} does that: {', '.join(missing)}")
    return grid, runs


def transfer() -> Iterator[dict[str, Any]]:
    """The main setting's detectors on the test scenes of each relation."""
    digits, runs = compared("digits", MAIN_LEVEL, MAIN_RELATION)
    for relation in RELATIONS:
        for run in runs:
            aps = aps_on(digits, run, relation)
            yield {"run": asdict(run), "tested_on": relation, "metrics": {"APs": aps}}


def aps_on(grid: Grid, run: Run, relation: str) -> float:
    """A run's detector on the test scenes of another relation."""
    cfg = trained_configuration(grid, run, tested_as=replace(run, variant=relation))
    cfg.OUTPUT_DIR = str(grid.folder(run) / f"tested_on_{relation}")
    return Trainer.test(cfg, load_detector(cfg).model)["bbox"]["APs"]


def batch_norm() -> Iterator[dict[str, Any]]:
    """The nuclei's detectors from scratch as they were trained, and with statistics measured."""
    nuclei, runs = compared("nuclei", "nuclei", "scratch")
    for run in runs:
        for statistics, aps in aps_by_statistics(nuclei, run).items():
            yield {"run": asdict(run), "batch_norm": statistics, "metrics": {"APs": aps}}


def aps_by_statistics(grid: Grid, run: Run) -> dict[str, float]:
    cfg, detector = trained(grid, run)
    cfg.OUTPUT_DIR = str(grid.folder(run) / "batch_norm")
    model = detector.model
    as_trained = Trainer.test(cfg, model)["bbox"]["APs"]
    with torch.no_grad(), EventStorage():
        update_bn_stats(model.train(), iter(Trainer.build_train_loader(cfg)), BATCHES)
    anew = Trainer.test(cfg, model.eval())["bbox"]["APs"]
    return {"as trained": as_trained, "measured anew": anew}


if __name__ == "__main__":
    main()
