#!/usr/bin/env python
"""What the main setting's detectors find in scenes whose digits are related otherwise.

    python benchmarks/relations/transfer.py

They learned where tiny digits repeat and mostly have a large relative, too. Tested where only one
of the two is there, they show which one they read; and where each tiny digit's class is drawn by
itself, a system that reads others' classes must be misled by them.

Needs the trainings of experiment.py, in output/; some 15 minutes. Writes transfer.json.
"""

import json
from dataclasses import asdict, replace

import scenes
from experiment import SEEDS, Run, configuration, require_trained
from paths import RESULTS
from systems import BASELINE, PROPOSED

from enl_detectron2.analysis.detector import load_detector
from enl_detectron2.training.data import register_coco_format
from enl_detectron2.training.trainer import Trainer

RESULT = RESULTS / "transfer.json"
RUNS = [
    Run(system, scenes.MAIN_LEVEL, scenes.MAIN_RELATION, seed)
    for system in (BASELINE, PROPOSED)
    for seed in SEEDS
]


def main() -> None:
    require_trained(RUNS)
    rows = []
    for relation in scenes.RELATIONS:
        for run in RUNS:
            rows.append({"run": asdict(run), "tested_on": relation, "metrics": test(run, relation)})
            print(run.name, relation, rows[-1]["metrics"], flush=True)
    RESULT.write_text(json.dumps(rows, indent=1) + "\n")


def test(run: Run, relation: str) -> dict[str, float]:
    """A run's detector on the test scenes of another relation."""
    cfg = configuration(replace(run, variant=relation))
    cfg.MODEL.WEIGHTS = str(run.weights)
    cfg.OUTPUT_DIR = str(run.folder / f"tested_on_{relation}")
    register_coco_format(cfg.DATASETS.COCO_FORMAT)
    results = Trainer.test(cfg, load_detector(cfg).model)
    return {"APs": results["bbox"]["APs"]}


if __name__ == "__main__":
    main()
