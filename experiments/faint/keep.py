"""Keeps the pair of nuclei detectors whose gain is the median of a level's, for others to try.

    cd experiments; python -m faint.keep dark    # needs the grid's runs in output/

Writes faint/weights/plain.pth and enl.pth, in float16, and tests both as they are kept.
"""

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import Any

import torch
from runner.grid import Grid, Run, load_grid
from ship import LARGEST_LOSS, as_shipped, test

from enl_detectron2.training.data import register_coco_format
from enl_detectron2.utils.files import whole_file
from faint.degrade import LEVELS

FOLDER = Path(__file__).resolve().parent
SYSTEMS = {"plain": "nuclei", "enl": "nuclei +3ENL TD"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("level", choices=LEVELS)
    level = parser.parse_args().level
    grid = load_grid(FOLDER.parent / "faint.yaml")
    measured = json.loads((FOLDER.parent / "results" / "faint_measures.json").read_text())["runs"]
    seed = median_seed(measured, level)
    (FOLDER / "weights").mkdir(exist_ok=True)
    for name, system in SYSTEMS.items():
        run = Run(system, level, "", seed)
        trained = of_run(measured, run)["AP50"]
        kept = keep(grid, run, FOLDER / "weights" / f"{name}.pth")
        print(f"seed {seed}, {system}: AP50 {trained:.2f} as it was trained, {kept:.2f} as kept")
        if trained - kept > LARGEST_LOSS:
            sys.exit("float16 loses too much")


def of_run(measured: list[dict[str, Any]], run: Run) -> dict[str, Any]:
    return next(line for line in measured if Run(**line["run"]) == run)


def median_seed(measured: list[dict[str, Any]], level: str) -> int:
    """The seed whose gain of AP50 is nearest to the median of all pairs; the first of equals."""
    values: dict[str, dict[int, float]] = {system: {} for system in SYSTEMS.values()}
    for line in measured:
        run = line["run"]
        if run["data"] == level and run["system"] in values:
            values[run["system"]][run["seed"]] = line["AP50"]
    plain, enl = values.values()
    gains = {seed: enl[seed] - plain[seed] for seed in sorted(plain.keys() & enl.keys())}
    middle = statistics.median(gains.values())
    return min(gains, key=lambda seed: abs(gains[seed] - middle))


def keep(grid: Grid, run: Run, target: Path) -> float:
    """Writes a run's weights, and gives their AP50 on the level's test photographs."""
    trained = torch.load(grid.folder(run) / "model_final.pth", weights_only=True)
    kept = {key: trained[key] for key in ("class_names", "relation_blocks")}
    kept["model"] = {name: as_shipped(value) for name, value in trained["model"].items()}
    with whole_file(target) as file:
        torch.save(kept, file)
    cfg = grid.configuration(run)
    cfg.OUTPUT_DIR = str(grid.folder(run) / "kept")
    register_coco_format(cfg.DATASETS.COCO_FORMAT)
    return test(cfg, target)["AP50"]


if __name__ == "__main__":
    main()
