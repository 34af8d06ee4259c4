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
from cells import background, distance, feature_map, trained
from detectron2.data import DatasetCatalog
from runner.grid import Grid, Run
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import StandardScaler

from .measures import grid_of_command, result_file, with_others

SEEDS = (1, 2, 3)
LEVEL, STRIDE = "p3", 8
CELLS = 20  # a photograph
MARGIN = 16  # pixels that background keeps from any object
FAR = 256  # pixels to the nearest bus, at least
BUS = 8  # its number among the classes, from 0
PENALTY = 1e-2  # of the squared weights beside the mean loss, features being of variance 1


def main() -> None:
    grid = grid_of_command("Asks single cells what they know of their photograph.")
    file = result_file(grid, "probe")
    before = json.loads(file.read_text()) if file.exists() else []
    rows = []
    for run in grid.runs():
        if run.seed in SEEDS and grid.weights(run).exists():
            answers = linear_answers(*(cells(grid, run, split) for split in ("TRAIN", "TEST")))
            rows.append({"run": asdict(run)} | answers)
            print(run.name, {key: round(answers[key], 3) for key in ("bus_auc", "shares_r2")})
            file.write_text(json.dumps(with_others(rows, before), indent=1) + "\n")


def linear_answers(train: dict[str, np.ndarray], test: dict[str, np.ndarray]) -> dict[str, float]:
    """The area under the ROC curve of "is there a bus far away?", and the explained variance of the
    classes' shares, 1 being all and 0 what their mean over the training photographs explains."""
    scaler = StandardScaler().fit(train["features"])
    inputs, tested = (scaler.transform(part["features"]) for part in (train, test))
    known = train["bus"] >= 0
    # scikit-learn weighs the sum of the losses.
    bus = LogisticRegression(C=1 / (2 * PENALTY * known.sum()), max_iter=500)
    bus.fit(inputs[known], train["bus"][known])
    shares = Ridge(alpha=PENALTY * len(inputs)).fit(inputs, train["shares"])
    known = test["bus"] >= 0
    error = np.square(shares.predict(tested) - test["shares"]).sum()
    mean_error = np.square(train["shares"].mean(axis=0) - test["shares"]).sum()
    return {
        "bus_auc": float(roc_auc_score(test["bus"][known], bus.decision_function(tested[known]))),
        "shares_r2": float(1 - error / mean_error),
        "cells_with_bus": int((test["bus"] == 1).sum()),
        "cells_without": int((test["bus"] == 0).sum()),
    }


def cells(grid: Grid, run: Run, split: str) -> dict[str, np.ndarray]:
    """Of background cells the features (n, C), whether there is a bus (n,), -1 where one is near,
    and the shares of the classes (n, 10)."""
    cfg, detector = trained(grid, run)
    found: dict[str, list[np.ndarray]] = {"features": [], "bus": [], "shares": []}
    for record in DatasetCatalog.get(cfg.DATASETS[split][0]):
        objects = [a for a in record["annotations"] if not a["iscrowd"]]
        boxes = np.array([a["bbox"] for a in record["annotations"]])
        if not objects:
            continue
        shape = record["height"] // STRIDE, record["width"] // STRIDE
        size = {"margin": MARGIN, "number": CELLS, "seed": record["image_id"]}
        y, x = background(boxes, shape, STRIDE, **size)
        if not len(y):
            continue
        classes = np.array([a["category_id"] for a in objects])
        shares = np.bincount(classes, minlength=10) / len(classes)
        buses = boxes[[a["category_id"] == BUS and not a["iscrowd"] for a in record["annotations"]]]
        features = feature_map(detector, record["file_name"], LEVEL).cpu().numpy()
        found["features"].append(features[:, y, x].T)
        found["shares"].append(np.tile(shares, (len(y), 1)))
        found["bus"].append(bus_labels(buses, y, x))
    return {name: np.concatenate(parts) for name, parts in found.items()}


def bus_labels(buses: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """0 where there is no bus, 1 where all are far away, -1 where one is near."""
    if not len(buses):
        return np.zeros(len(rows))
    far = distance(buses, rows, columns, STRIDE).min(axis=1) >= FAR
    return np.where(far, 1.0, -1.0)


if __name__ == "__main__":
    main()
