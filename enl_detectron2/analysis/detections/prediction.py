"""Detections on any image, whole or tile by tile."""

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from detectron2.data.detection_utils import convert_PIL_to_numpy
from detectron2.layers import batched_nms
from detectron2.structures import Boxes, Instances
from PIL import Image

from enl_detectron2.analysis.detector import Detector
from enl_detectron2.utils.errors import UserError

TILE_NMS_THRESHOLD = 0.5  # IoU from which two tiles' boxes of a class are the same object


class NoInstances(UserError, ValueError):
    """A model segments or proposes, but doesn't detect; the message says what it gives."""


@torch.no_grad()
def predict(detector: Detector, image: np.ndarray, *, score_threshold: float) -> Instances:
    """What the model finds on an image, on the CPU, in pixels of the image.

    Args:
        detector: of ``load_detector``.
        image: (height, width, 3) uint8, BGR.
        score_threshold: detections below are left out, those below the model's own anyway.

    Raises:
        ValueError: if the model detects no instances, or the image can't be resized for it.
    """
    colours = Image.fromarray(np.ascontiguousarray(image[:, :, ::-1]))
    record = detector.record(convert_PIL_to_numpy(colours, detector.mapper.image_format))
    (output,) = detector.model([record])
    return instances_above(score_threshold, output)


def instances_above(score_threshold: float, output: Mapping[str, Any]) -> Instances:
    """Those of a model's output for an image, on the CPU.

    Raises:
        NoInstances: (a ValueError) if the model detects no instances.
    """
    if "instances" not in output:
        raise NoInstances(f"the model gives {' and '.join(output)}, but no instances to show")
    instances = output["instances"].to("cpu")
    return instances[instances.scores >= score_threshold]


def predict_tiled(
    detector: Detector, image: np.ndarray, tile: int, *, score_threshold: float
) -> Instances:
    """What the model finds on overlapping square tiles of an image, for very large images.

    Neighbours overlap by a quarter of a tile. An object that is smaller than that lies whole in
    one of them, so a box that a tile's edge cuts is left out, unless it is longer than the overlap:
    such objects stay cut in pieces. What two tiles both found is merged by non-maximum suppression
    within each class. The detections have boxes, scores and classes, no masks.

    Args:
        detector, image, score_threshold: as of :func:`predict`.
        tile: the tiles' side in pixels of the image; the model resizes each as it would an image.
    """
    height, width = image.shape[:2]
    overlap = tile // 4
    boxes, scores, classes = [], [], []
    for top, left in itertools.product(_starts(height, tile), _starts(width, tile)):
        part = image[top : top + tile, left : left + tile]
        found = predict(detector, part, score_threshold=score_threshold)
        shift = torch.tensor([left, top, left, top])
        box = found.pred_boxes.tensor + shift
        whole = ~_cut(box, (top, left), part.shape[:2], (height, width), overlap)
        boxes.append(box[whole])
        scores.append(found.scores[whole])
        classes.append(found.pred_classes[whole])
    boxes, scores, classes = torch.cat(boxes), torch.cat(scores), torch.cat(classes)
    kept = batched_nms(boxes, scores, classes, TILE_NMS_THRESHOLD)
    return Instances(
        (height, width),
        pred_boxes=Boxes(boxes[kept]),
        scores=scores[kept],
        pred_classes=classes[kept],
    )


def _starts(length: int, tile: int) -> list[int]:
    """Where tiles begin, the last one flush with the end."""
    if length <= tile:
        return [0]
    return [*range(0, length - tile, tile - tile // 4), length - tile]


def _cut(
    boxes: torch.Tensor,
    corner: tuple[int, int],
    size: tuple[int, int],
    image_size: tuple[int, int],
    overlap: int,
) -> torch.Tensor:
    """Which boxes of a tile end at an edge that isn't the image's, and may be whole elsewhere."""
    cut = torch.zeros(len(boxes), dtype=torch.bool)
    for axis, start, length, end in zip((1, 0), corner, size, image_size):  # y, then x
        low, high = boxes[:, axis], boxes[:, axis + 2]
        touches = (low < start + 1) & (start > 0)
        touches |= (high > start + length - 1) & (start + length < end)
        cut |= touches & (high - low <= overlap)
    return cut
