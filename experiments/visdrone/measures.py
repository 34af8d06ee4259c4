"""What the drone's grid was asked, of the detections that its runs left.

    cd experiments; python -m visdrone.measures visdrone.yaml

The primary measure, fixed before any system was compared: AP50 and APs over the classes with 1,000
objects or more to train on, 500 detections a photograph, ignored regions left out. Photographs of
one sequence are alike, so test images are drawn by sequences. Look-alikes: of the objects that are
found at all, at IoU 0.5 by a detection of any class, how many are called what.

Needs the runs' detections, in output/; some minutes. Writes results/<the grid>_measures.json, where
the lines of runs stay that were measured elsewhere.
"""

import argparse
import contextlib
import io
import itertools
import json
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data import MetadataCatalog
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from runner.bootstrap import RESAMPLES, Bootstrap, match, percentiles
from runner.grid import Grid, Run, load_grid

from enl_detectron2.training.data import register_coco_format

from .prepare import sequence

FOLDER = Path(__file__).resolve().parents[1]
BASELINE = "baseline"
PRIMARY = ("pedestrian", "people", "car", "van", "motor")  # 1,000 training objects or more
MEASURES = {"AP50": ("all", [0.5]), "APs": ("small", None)}  # sizes, and IoUs if not COCO's
LIMIT = 500  # detections a photograph
GROUPS = (("car", "van", "truck"), ("pedestrian", "people"), ("tricycle", "awning-tricycle"))
SCORE = 0.3  # what a detection needs to call an object something


def main() -> None:
    grid = grid_of_command("Measures what the drone's runs have detected.")
    runs = [run for run in grid.runs() if detections(grid, run).exists()]
    if not runs:
        sys.exit(f"no run of {grid.file.name} has left its detections in {grid.output}")
    truth = ground_truth(grid, runs[0])
    draws = draws_of_sequences(truth)
    lines: dict[Run, dict[str, Any]] = {}
    samples: dict[Run, dict[str, np.ndarray]] = {}
    for run in runs:
        found = truth.loadRes(str(detections(grid, run)))
        lines[run], samples[run] = primary(truth, found, draws)
        lines[run] |= {"classes": of_classes(truth, found), "called": called(truth, found)}
        print(run.name, {name: round(lines[run][name], 2) for name in MEASURES}, flush=True)
    file = result_file(grid, "measures")
    before = json.loads(file.read_text()) if file.exists() else {"runs": [], "differences": {}}
    measured = [{"run": asdict(run)} | line for run, line in lines.items()]
    content = {
        "sequences": len({sequence(image) for image in truth.dataset["images"]}),
        "runs": with_others(measured, before["runs"]),
        "differences": before["differences"] | differences(samples),
    }
    file.write_text(json.dumps(content, indent=1) + "\n")


def grid_of_command(does: str) -> Grid:
    """The grid that the command line names."""
    parser = argparse.ArgumentParser(description=does)
    parser.add_argument("grid", help="visdrone.yaml or visdrone_others.yaml")
    return load_grid(parser.parse_args().grid)


def result_file(grid: Grid, name: str) -> Path:
    """Where a program of this folder leaves what it found for a grid."""
    return grid.results.with_name(f"{grid.title}_{name}.json")


def with_others(lines: list[dict[str, Any]], before: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The lines, and after them those from before of other runs, whose output is elsewhere."""
    measured = [line["run"] for line in lines]
    return lines + [line for line in before if line["run"] not in measured]


def detections(grid: Grid, run: Run) -> Path:
    return grid.folder(run) / "inference" / "coco_instances_results.json"


def ground_truth(grid: Grid, run: Run) -> COCO:
    """The annotations of a run's test photographs."""
    cfg = grid.configuration(run)
    register_coco_format(cfg.DATASETS.COCO_FORMAT)
    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(MetadataCatalog.get(cfg.DATASETS.TEST[0]).json_file)


def draws_of_sequences(truth: COCO, resamples: int = RESAMPLES, seed: int = 0) -> np.ndarray:
    """(resamples + 1, images): how often each counts, in COCOeval's order; first each once."""
    names = [sequence(truth.imgs[number]) for number in sorted(truth.imgs)]
    every = sorted(set(names))
    member = np.array([[name == each for name in names] for each in every], dtype=float)
    chances = np.full(len(every), 1 / len(every))
    drawn = np.random.default_rng(seed).multinomial(len(every), chances, size=resamples)
    return np.concatenate([np.ones((1, len(names))), drawn @ member])


def primary(
    truth: COCO,
    found: COCO,
    draws: np.ndarray,
    classes: Sequence[str] = PRIMARY,
    limit: int = LIMIT,
) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """The primary measures, and each on the drawn sequences; of all classes if none is named."""
    return first_apart(on_draws(truth, found, draws, classes, limit))


def on_draws(
    truth: COCO, found: COCO, draws: np.ndarray, classes: Sequence[str], limit: int
) -> dict[str, np.ndarray]:
    """(draws,) of each primary measure; of all classes if none is named."""
    return {
        name: Bootstrap(match(truth, found, "bbox", limit, ious, classes), size).resampled(draws)
        for name, (size, ious) in MEASURES.items()
    }


def first_apart(
    drawn: dict[str, np.ndarray],
) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """Each measure with every image once, which is the first draw, and on the others."""
    values = {name: float(of_draws[0]) for name, of_draws in drawn.items()}
    return values, {name: of_draws[1:] for name, of_draws in drawn.items()}


def of_classes(truth: COCO, found: COCO) -> dict[str, float]:
    """AP50 of each class."""
    once = np.ones((1, len(truth.imgs)))
    names = [category["name"] for category in truth.dataset["categories"]]
    return {
        name: float(Bootstrap(match(truth, found, "bbox", LIMIT, [0.5], [name])).ap(once)[0])
        for name in names
    }


def called(truth: COCO, found: COCO) -> dict[str, dict[str, int]]:
    """For each class of a group, how many of its objects are called what; "" is not found."""
    evaluation = COCOeval(truth, found, "bbox")
    evaluation.params.useCats = 0
    evaluation.params.maxDets = [LIMIT]
    evaluation.params.iouThrs = np.array([0.5])
    evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation.evaluate()
    names = {category["id"]: category["name"] for category in truth.dataset["categories"]}
    grouped = set(itertools.chain(*GROUPS))
    counts = {name: Counter() for name in names.values() if name in grouped}
    for image in filter(None, evaluation.evalImgs):
        for number, matched in zip(image["gtIds"], image["gtMatches"][0]):
            annotation = truth.anns[number]
            name = names[annotation["category_id"]]
            if annotation["iscrowd"] or name not in grouped:
                continue
            detection = found.anns.get(int(matched))
            known = detection is not None and detection["score"] >= SCORE
            counts[name][names[detection["category_id"]] if known else ""] += 1
    return {name: dict(of_name) for name, of_name in counts.items()}


def differences(samples: dict[Run, dict[str, np.ndarray]]) -> dict[str, dict[str, Any]]:
    """For each system the mean over its seeds of the difference to the baseline of the same seed,
    as it moves with the sequences that are tested."""
    result: dict[str, dict[str, Any]] = {}
    for system in dict.fromkeys(run.system for run in samples):
        pairs = [
            (run, base)
            for run in samples
            for base in samples
            if run.system == system != BASELINE and (base.system, base.seed) == (BASELINE, run.seed)
        ]
        if not pairs:
            continue
        result[system] = {"seeds": len(pairs)}
        for name in MEASURES:
            moved = np.mean([samples[a][name] - samples[b][name] for a, b in pairs], axis=0)
            result[system][name] = percentiles(moved)
    return result


if __name__ == "__main__":
    main()
