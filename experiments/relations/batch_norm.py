"""What the nuclei's detectors from scratch find if their batch norm is measured anew.

    cd experiments; python -m relations.batch_norm

Batch norm trains on the statistics of its batch and is tested with running means of them, which lag
behind weights that still move fast. Here the trained weights stay, and the statistics are those of
training images under these weights, as detectron2's TEST.PRECISE_BN takes them.

Needs the nuclei's trainings, in output/; some 15 minutes. Writes batch_norm.json.
"""

import json
from dataclasses import asdict

import torch
from detectron2.utils.events import EventStorage
from fvcore.nn import update_bn_stats
from runner.grid import Grid, Run

from enl_detectron2.analysis.detector import load_detector
from enl_detectron2.training.trainer import Trainer

from .trained import RESULTS, compared, grid, require_trained, trained_configuration

RESULT = RESULTS / "batch_norm.json"
BATCHES = 150


def main() -> None:
    nuclei = grid("nuclei")
    runs = compared(nuclei, "nuclei", "scratch")
    require_trained(nuclei, runs)
    rows = []
    for run in runs:
        for statistics, metrics in test(nuclei, run).items():
            rows.append({"run": asdict(run), "batch_norm": statistics, "metrics": metrics})
            print(run.name, statistics, metrics, flush=True)
    RESULT.write_text(json.dumps(rows, indent=1) + "\n")


def test(of: Grid, run: Run) -> dict[str, dict[str, float]]:
    """A run's detector as it was trained, and with statistics of its own."""
    cfg = trained_configuration(of, run)
    cfg.OUTPUT_DIR = str(of.folder(run) / "batch_norm")
    model = load_detector(cfg).model
    metrics = {"as trained": Trainer.test(cfg, model)["bbox"]["APs"]}
    with torch.no_grad(), EventStorage():
        update_bn_stats(model.train(), iter(Trainer.build_train_loader(cfg)), BATCHES)
    metrics["measured anew"] = Trainer.test(cfg, model.eval())["bbox"]["APs"]
    return {statistics: {"APs": aps} for statistics, aps in metrics.items()}


if __name__ == "__main__":
    main()
