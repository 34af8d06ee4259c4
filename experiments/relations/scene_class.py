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
import torch
from detectron2.data import DatasetCatalog
from runner.grid import Grid, Run
from torch import Tensor
from torch.nn import functional as F

from enl_detectron2.analysis.detector import load_detector

from .scenes import MAIN_LEVEL
from .trained import RESULTS, compared, grid, require_trained, trained_configuration

RESULT = RESULTS / "scene_class.json"
VARIANTS = ("both", "repeats", "large", "large ×6")
SEEDS = (1, 2, 3)
SCENES = {"train": 1000, "test": 500}
LEVEL, STRIDE = "p2", 4
LARGEST_TINY = 32  # pixels, between the sides of tiny digits and of large ones
MARGIN = 8  # pixels that background keeps from any digit
BACKGROUND_CELLS = 10  # a scene
PENALTY = 1e-4  # of the classifier's squared weights


def main() -> None:
    digits = grid("digits")
    runs = [run for run in compared(digits, MAIN_LEVEL, *VARIANTS) if run.seed in SEEDS]
    require_trained(digits, runs)
    rows = []
    for run in runs:
        rows.append({"run": asdict(run)} | measure(digits, run))
        print(run.name, *(f"{place} {value:.3f}" for place, value in rows[-1]["accuracy"].items()))
    RESULT.write_text(json.dumps(rows, indent=1) + "\n")


def measure(of: Grid, run: Run) -> dict[str, dict[str, float]]:
    """The share of cells, at each kind of place, of which the scene's class is told right."""
    train, test = (cells(of, run, split, count) for split, count in SCENES.items())
    return {"accuracy": {place: linear_accuracy(train[place], test[place]) for place in train}}


@torch.no_grad()
def cells(of: Grid, run: Run, split: str, count: int) -> dict[str, tuple[Tensor, Tensor]]:
    """For each kind of place the features (n, C) of its cells, and their scenes' classes (n,)."""
    cfg = trained_configuration(of, run)
    detector = load_detector(cfg)
    names = cfg.DATASETS.TRAIN if split == "train" else cfg.DATASETS.TEST
    found = {"tiny digit": ([], []), "background": ([], [])}
    for scene in DatasetCatalog.get(names[0])[:count]:
        images = detector.model.preprocess_image([detector.read(scene["file_name"])])
        features = detector.model.backbone(images.tensor)[LEVEL][0]
        boxes = np.array([annotation["bbox"] for annotation in scene["annotations"]])
        places = {
            "tiny digit": tiny_digits(boxes),
            "background": background(boxes, features.shape[1:], scene["image_id"]),
        }
        for name, (rows, columns) in places.items():
            found[name][0].append(features[:, rows, columns].T)
            found[name][1].extend([scene["annotations"][0]["category_id"]] * len(rows))
    return {name: (torch.cat(of), torch.tensor(classes)) for name, (of, classes) in found.items()}


def tiny_digits(boxes: np.ndarray) -> np.ndarray:
    """Rows and columns (2, n) of the cells that hold the tiny digits' centres."""
    tiny = boxes[boxes[:, 2:].max(axis=1) < LARGEST_TINY]
    return ((tiny[:, :2] + tiny[:, 2:] / 2) // STRIDE).astype(int).T[::-1]


def background(boxes: np.ndarray, shape: tuple[int, int], seed: int) -> np.ndarray:
    """Rows and columns (2, n) of some cells whose centres are away from all digits."""
    rows, columns = np.indices(shape).reshape(2, -1)
    y, x = ((index[:, None] + 0.5) * STRIDE for index in (rows, columns))
    left, top, width, height = boxes.T
    near = (x > left - MARGIN) & (x < left + width + MARGIN)
    near &= (y > top - MARGIN) & (y < top + height + MARGIN)
    [free] = np.nonzero(~near.any(axis=1))
    chosen = np.random.default_rng(seed).permutation(free)[:BACKGROUND_CELLS]
    return np.stack([rows[chosen], columns[chosen]])


def linear_accuracy(train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor]) -> float:
    """The accuracy on ``test`` of logistic regression on ``train``; each is (n, C) and (n,)."""
    mean, std = train[0].mean(dim=0), train[0].std(dim=0) + 1e-6
    classes = int(train[1].max()) + 1
    weight = torch.zeros(train[0].shape[1] + 1, classes, requires_grad=True)

    def scores(features: Tensor) -> Tensor:
        return F.pad((features - mean) / std, (0, 1), value=1.0) @ weight

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = F.cross_entropy(scores(train[0]), train[1]) + PENALTY * weight.square().sum()
        value.backward()
        return value

    optimizer = torch.optim.LBFGS([weight], max_iter=200, line_search_fn="strong_wolfe")
    optimizer.step(loss)
    with torch.no_grad():
        return (scores(test[0]).argmax(dim=1) == test[1]).float().mean().item()


if __name__ == "__main__":
    main()
