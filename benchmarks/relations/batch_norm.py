#!/usr/bin/env python
"""What the nuclei's detectors from scratch find if their batch norm is measured anew.

    python benchmarks/relations/batch_norm.py

Batch norm trains on the statistics of its batch and is tested with running means of them, which lag
behind weights that still move fast. Here the trained weights stay, and the statistics are those of
training images under these weights, as detectron2's TEST.PRECISE_BN takes them.

Needs the trainings of experiment.py, in output/; some 15 minutes. Writes batch_norm.json.
"""

import json
from dataclasses import asdict

import nuclei
import torch
from detectron2.utils.events import EventStorage
from experiment import Run, configuration, require_trained
from fvcore.nn import update_bn_stats
from paths import RESULTS
from systems import BASELINE, PROPOSED

from enl_detectron2.analysis.detector import load_detector
from enl_detectron2.training.data import register_coco_format
from enl_detectron2.training.trainer import Trainer

RESULT = RESULTS / "batch_norm.json"
RUNS = [
    Run(system, "nuclei", start, seed)
    for start, seed in nuclei.RUNS
    if start == "scratch"
    for system in (BASELINE, PROPOSED)
]
BATCHES = 150


def main() -> None:
    require_trained(RUNS)
    rows = []
    for run in RUNS:
        for statistics, metrics in test(run).items():
            rows.append({"run": asdict(run), "batch_norm": statistics, "metrics": metrics})
            print(run.name, statistics, metrics, flush=True)
    RESULT.write_text(json.dumps(rows, indent=1) + "\n")


def test(run: Run) -> dict[str, dict[str, float]]:
    """A run's detector as it was trained, and with statistics of its own."""
    cfg = configuration(run)
    cfg.MODEL.WEIGHTS = str(run.weights)
    cfg.OUTPUT_DIR = str(run.folder / "batch_norm")
    register_coco_format(cfg.DATASETS.COCO_FORMAT)
    model = load_detector(cfg).model
    metrics = {"as trained": Trainer.test(cfg, model)["bbox"]["APs"]}
    with torch.no_grad(), EventStorage():
        update_bn_stats(model.train(), iter(Trainer.build_train_loader(cfg)), BATCHES)
    metrics["measured anew"] = Trainer.test(cfg, model.eval())["bbox"]["APs"]
    return {statistics: {"APs": aps} for statistics, aps in metrics.items()}


if __name__ == "__main__":
    main()
