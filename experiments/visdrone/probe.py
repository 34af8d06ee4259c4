"""What a single cell of a trained detector's P3 knows of the rest of its photograph.

    cd experiments; python -m visdrone.probe visdrone.yaml

Two questions to cells of the background, which show no object: is there a bus, and if so one far
away from this cell; and which shares have the ten classes among the photograph's objects. Linear
answers, learned on training photographs and tested on test photographs. What a block brings from
the rest of the photograph is what a cell knows more than the baseline's.

Needs the runs' weights, in output/; some minutes a run on a core. Writes
results/<the grid>_probe.json, where the lines of runs stay that were measured elsewhere.
"""

import json
from dataclasses import asdict

import numpy as np
import torch
from detectron2.data import DatasetCatalog
from runner.grid import Grid, Run
from scipy.stats import rankdata
from torch import Tensor
from torch.nn import functional as F

from enl_detectron2.analysis.detector import load_detector
from enl_detectron2.training.data import register_coco_format

from .measures import grid_of_command, result_file, with_others

SEEDS = (1, 2, 3)
LEVEL, STRIDE = "p3", 8
CELLS = 20  # a photograph
MARGIN = 16  # pixels that background keeps from any object
FAR = 256  # pixels to the nearest bus, at least
BUS = 8  # its number among the classes, from 0
PENALTY = 1e-2  # of the squared weights, features being of variance 1


def main() -> None:
    grid = grid_of_command("Asks single cells what they know of their photograph.")
    grid.register()
    file = result_file(grid, "probe")
    before = json.loads(file.read_text()) if file.exists() else []
    rows = []
    for run in grid.runs():
        if run.seed in SEEDS and grid.weights(run).exists():
            rows.append({"run": asdict(run)} | measure(grid, run))
            print(run.name, {key: round(rows[-1][key], 3) for key in ("bus_auc", "shares_r2")})
            file.write_text(json.dumps(with_others(rows, before), indent=1) + "\n")


def measure(grid: Grid, run: Run) -> dict[str, float]:
    """The area under the ROC curve of "is there a bus far away?", and the explained variance of the
    classes' shares, 1 being all and 0 what their mean over the training photographs explains."""
    train, test = (cells(grid, run, split) for split in ("TRAIN", "TEST"))
    scale = train["features"].mean(dim=0), train["features"].std(dim=0) + 1e-6
    inputs = [(part["features"] - scale[0]) / scale[1] for part in (train, test)]
    bus, shares = (linear(inputs[0], train[name], name) for name in ("bus", "shares"))
    known = test["bus"] >= 0
    error = (shares(inputs[1]) - test["shares"]).square().sum()
    mean_error = (train["shares"].mean(dim=0) - test["shares"]).square().sum()
    return {
        "bus_auc": auc(bus(inputs[1])[known], test["bus"][known]),
        "shares_r2": 1 - (error / mean_error).item(),
        "cells_with_bus": int((test["bus"] == 1).sum()),
        "cells_without": int((test["bus"] == 0).sum()),
    }


@torch.no_grad()
def cells(grid: Grid, run: Run, split: str) -> dict[str, Tensor]:
    """Of background cells the features (n, C), whether there is a bus (n,), -1 where one is near,
    and the shares of the classes (n, 10)."""
    grid.prepare(run)
    cfg = grid.configuration(run)
    cfg.MODEL.WEIGHTS = str(grid.weights(run))
    register_coco_format(cfg.DATASETS.COCO_FORMAT)
    detector = load_detector(cfg)
    found: dict[str, list[Tensor]] = {"features": [], "bus": [], "shares": []}
    for record in DatasetCatalog.get(cfg.DATASETS[split][0]):
        objects = [a for a in record["annotations"] if not a["iscrowd"]]
        if not objects:
            continue
        image = detector.read(record["file_name"])
        images = detector.model.preprocess_image([image])
        features = detector.model.backbone(images.tensor)[LEVEL][0]
        shape = record["height"] // STRIDE, record["width"] // STRIDE
        boxes = np.array([a["bbox"] for a in record["annotations"]])
        y, x = background(boxes, shape, record["image_id"])
        if not len(y):
            continue
        classes = torch.tensor([a["category_id"] for a in objects])
        shares = torch.bincount(classes, minlength=10) / len(classes)
        buses = boxes[[a["category_id"] == BUS and not a["iscrowd"] for a in record["annotations"]]]
        found["features"].append(features[:, y, x].T)
        found["shares"].append(shares.expand(len(y), -1))
        found["bus"].append(bus_labels(buses, y, x))
    return {name: torch.cat(parts) for name, parts in found.items()}


def background(boxes: np.ndarray, shape: tuple[int, int], seed: int) -> tuple[np.ndarray, ...]:
    """Rows and columns of some cells whose centres are away from all objects."""
    rows, columns = np.indices(shape).reshape(2, -1)
    free = distance(boxes, rows, columns).min(axis=1) > MARGIN
    chosen = np.random.default_rng(seed).permutation(np.flatnonzero(free))[:CELLS]
    return rows[chosen], columns[chosen]


def distance(boxes: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """(cells, boxes): pixels between a cell's centre and a box, 0 inside."""
    y, x = ((index[:, None] + 0.5) * STRIDE for index in (rows, columns))
    left, top, width, height = boxes.T
    beside = np.maximum(np.maximum(left - x, x - left - width), 0)
    above = np.maximum(np.maximum(top - y, y - top - height), 0)
    return np.hypot(beside, above)


def bus_labels(buses: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> Tensor:
    if not len(buses):
        return torch.zeros(len(rows))
    far = distance(buses, rows, columns).min(axis=1) >= FAR
    return torch.from_numpy(np.where(far, 1.0, -1.0)).float()


def linear(features: Tensor, answers: Tensor, name: str):
    """The linear answer: logistic regression for the bus, least squares for the shares."""
    is_bus = name == "bus"
    known = answers >= 0 if is_bus else slice(None)
    inputs, targets = F.pad(features[known], (0, 1), value=1.0), answers[known]
    if not is_bus:
        gram = inputs.T @ inputs + PENALTY * len(inputs) * torch.eye(inputs.shape[1])
        weight = torch.linalg.solve(gram, inputs.T @ targets)
        return lambda x: F.pad(x, (0, 1), value=1.0) @ weight
    weight = torch.zeros(inputs.shape[1], requires_grad=True)
    optimizer = torch.optim.LBFGS([weight], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = F.binary_cross_entropy_with_logits(inputs @ weight, targets)
        value = value + PENALTY * weight.square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    return lambda x: F.pad(x, (0, 1), value=1.0) @ weight.detach()


def auc(scores: Tensor, answers: Tensor) -> float:
    """The chance that a cell with a bus scores above one without."""
    positive = answers.numpy() == 1
    ranks = rankdata(scores.numpy())
    pairs = positive.sum() * (~positive).sum()
    return float((ranks[positive].sum() - positive.sum() * (positive.sum() + 1) / 2) / pairs)


if __name__ == "__main__":
    main()
