"""What the main setting's detectors find in scenes whose digits are related otherwise.

    cd experiments; python -m relations.transfer

They learned where tiny digits repeat and mostly have a large relative, too. Tested where only one
of the two is there, they show which one they read; and where each tiny digit's class is drawn by
itself, a system that reads others' classes must be misled by them.

Needs the digits' trainings, in output/; some 15 minutes. Writes transfer.json.
"""

import json
from dataclasses import asdict, replace

from runner.grid import Grid, Run

from enl_detectron2.analysis.detector import load_detector
from enl_detectron2.training.trainer import Trainer

from .scenes import MAIN_LEVEL, MAIN_RELATION, RELATIONS
from .trained import RESULTS, compared, grid, require_trained, trained_configuration

RESULT = RESULTS / "transfer.json"


def main() -> None:
    digits = grid("digits")
    runs = compared(digits, MAIN_LEVEL, MAIN_RELATION)
    require_trained(digits, runs)
    rows = []
    for relation in RELATIONS:
        for run in runs:
            metrics = test(digits, run, relation)
            rows.append({"run": asdict(run), "tested_on": relation, "metrics": metrics})
            print(run.name, relation, metrics, flush=True)
    RESULT.write_text(json.dumps(rows, indent=1) + "\n")


def test(of: Grid, run: Run, relation: str) -> dict[str, float]:
    """A run's detector on the test scenes of another relation."""
    cfg = trained_configuration(of, run, tested_as=replace(run, variant=relation))
    cfg.OUTPUT_DIR = str(of.folder(run) / f"tested_on_{relation}")
    results = Trainer.test(cfg, load_detector(cfg).model)
    return {"APs": results["bbox"]["APs"]}


if __name__ == "__main__":
    main()
