"""What a single cell of a trained detector's finest map knows of the class of its scene.

    cd experiments; python -m relations.scene_class

In scenes with a relation all digits are of one class. A linear classifier is asked for it, given
the features of one cell of P2: at a tiny digit's centre, where the class can be read from the digit
itself, too, or on the background, which shows none. What a block brings from the rest of the scene
is what a cell knows more than the baseline's. Classifiers are trained on training scenes and tested
on test scenes.

Needs the digits' trainings, in output/; some 15 minutes. Writes scene_class.json.
"""

import json
from dataclasses import asdict

import numpy as np
from cells import background, feature_map, trained
from detectron2.data import DatasetCatalog
from runner.grid import Grid, Run
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from .retests import RESULTS, compared
from .scenes import MAIN_LEVEL

VARIANTS = ("both", "repeats", "large", "large ×6")
SEEDS = (1, 2, 3)
SCENES = {"train": 1000, "test": 500}
LEVEL, STRIDE = "p2", 4
LARGEST_TINY = 32  # pixels, between the sides of tiny digits and of large ones
MARGIN = 8  # pixels that background keeps from any digit
BACKGROUND_CELLS = 10  # a scene
PENALTY = 1e-4  # of the classifier's squared weights, beside the mean loss

Cells = tuple[np.ndarray, np.ndarray]  # features (n, C), and their scenes' classes (n,)


def main() -> None:
    grid, runs = compared("digits", MAIN_LEVEL, *VARIANTS)
    rows = []
    for run in runs:
        if run.seed in SEEDS:
            rows.append({"run": asdict(run)} | measure(grid, run))
            print(run.name, rows[-1]["accuracy"], flush=True)
    (RESULTS / "scene_class.json").write_text(json.dumps(rows, indent=1) + "\n")


def measure(grid: Grid, run: Run) -> dict[str, dict[str, float]]:
    """The share of cells, at each kind of place, of which the scene's class is recognised."""
    train, test = (cells(grid, run, split, count) for split, count in SCENES.items())
    return {"accuracy": {place: linear_accuracy(train[place], test[place]) for place in train}}


def cells(grid: Grid, run: Run, split: str, count: int) -> dict[str, Cells]:
    """For each kind of place its cells."""
    cfg, detector = trained(grid, run)
    [name] = cfg.DATASETS.TRAIN if split == "train" else cfg.DATASETS.TEST
    found = {"tiny digit": ([], []), "background": ([], [])}
    for scene in DatasetCatalog.get(name)[:count]:
        features = feature_map(detector, scene["file_name"], LEVEL).cpu().numpy()
        boxes = np.array([annotation["bbox"] for annotation in scene["annotations"]])
        size = {"margin": MARGIN, "number": BACKGROUND_CELLS, "norm": np.maximum}
        places = {
            "tiny digit": tiny_digits(boxes),
            "background": background(
                boxes, features.shape[1:], STRIDE, seed=scene["image_id"], **size
            ),
        }
        for kind, (rows, columns) in places.items():
            found[kind][0].append(features[:, rows, columns].T)
            found[kind][1].extend([scene["annotations"][0]["category_id"]] * len(rows))
    return {kind: (np.concatenate(of), np.array(classes)) for kind, (of, classes) in found.items()}


def tiny_digits(boxes: np.ndarray) -> np.ndarray:
    """Rows and columns (2, n) of the cells that hold the tiny digits' centres."""
    tiny = boxes[boxes[:, 2:].max(axis=1) < LARGEST_TINY]
    return ((tiny[:, :2] + tiny[:, 2:] / 2) // STRIDE).astype(int).T[::-1]


def linear_accuracy(train: Cells, test: Cells) -> float:
    """The accuracy on ``test`` of logistic regression on ``train``."""
    strength = 1 / (2 * PENALTY * len(train[1]))  # scikit-learn weighs the sum of losses
    classifier = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=500))
    return float(classifier.fit(*train).score(*test))


if __name__ == "__main__":
    main()
