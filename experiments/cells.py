"""Single cells of a trained detector's feature maps, for programs that ask what they know."""

from pathlib import Path

import numpy as np
import torch
from detectron2.config import CfgNode
from runner.grid import Grid, Run
from torch import Tensor

from enl_detectron2.analysis.detector import Detector, load_detector
from enl_detectron2.training.data import register_coco_format


def trained_configuration(grid: Grid, run: Run, tested_as: Run | None = None) -> CfgNode:
    """A run's configuration with the weights that it ended with, its data registered.

    Args:
        grid: that it belongs to.
        run: a trained one.
        tested_as: another run, whose data is taken; its own if None.
    """
    grid.register()
    grid.prepare(tested_as or run)
    cfg = grid.configuration(tested_as or run)
    cfg.MODEL.WEIGHTS = str(grid.weights(run))
    register_coco_format(cfg.DATASETS.COCO_FORMAT)
    return cfg


def trained(grid: Grid, run: Run) -> tuple[CfgNode, Detector]:
    """A run's configuration, and its detector."""
    cfg = trained_configuration(grid, run)
    return cfg, load_detector(cfg)


@torch.no_grad()
def feature_map(detector: Detector, image_file: str | Path, level: str) -> Tensor:
    """(C, H, W) of one photograph."""
    images = detector.model.preprocess_image([detector.read(image_file)])
    return detector.model.backbone(images.tensor)[level][0]


def distance(
    boxes: np.ndarray, rows: np.ndarray, columns: np.ndarray, stride: int, norm=np.hypot
) -> np.ndarray:
    """(cells, boxes): pixels between a cell's centre and a box, 0 inside.

    Args:
        boxes: (n, 4), x, y, width, height.
        rows: of the cells.
        columns: of the cells.
        stride: pixels from one cell to the next.
        norm: of the distances along x and y.
    """
    y, x = ((index[:, None] + 0.5) * stride for index in (rows, columns))
    left, top, width, height = boxes.T
    beside = np.maximum(np.maximum(left - x, x - left - width), 0)
    above = np.maximum(np.maximum(top - y, y - top - height), 0)
    return norm(beside, above)


def background(
    boxes: np.ndarray,
    shape: tuple[int, int],
    stride: int,
    *,
    margin: float,
    number: int,
    seed: int,
    norm=np.hypot,
) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of some of a map's cells, ``number`` at most, whose centres are farther than
    ``margin`` pixels from all boxes."""
    rows, columns = np.indices(shape).reshape(2, -1)
    free = distance(boxes, rows, columns, stride, norm).min(axis=1) > margin
    chosen = np.random.default_rng(seed).permutation(np.flatnonzero(free))[:number]
    return rows[chosen], columns[chosen]
