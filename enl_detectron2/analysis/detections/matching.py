"""Ground truth and detections in COCO's format, and which of them belong together.

pycocotools does the matching. Sizes are those of boxes: an object's side is the square root of its
box's area, with or without a mask.
"""

import contextlib
import io
import json
import os
from collections.abc import Sequence

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

SMALL_SIDE = 32  # pixels; an object is small below it, as COCO has it
SIDES = (8, 12, 16, 24, 32, 48, 96)  # pixels, the limits of size groups
EVERY_SIDE = (0.0, float("inf"))


def load_truth(annotation_file: str | os.PathLike) -> COCO:
    """The ground truth, each annotation's ``area`` that of its box, its ``id`` from 1.

    Raises:
        ValueError: if the file isn't one of COCO's format; names it.
    """
    content = _read_json(annotation_file)
    try:
        parts = {key: content[key] for key in ("images", "annotations", "categories")}
        for number, annotation in enumerate(parts["annotations"], start=1):
            # COCOeval takes a match with annotation 0 for none, and a missing iscrowd as an error.
            annotation |= {"id": number, "area": box_side(annotation["bbox"]) ** 2}
            annotation.setdefault("iscrowd", 0)
        return _indexed(parts)
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"{annotation_file} isn't a ground truth in COCO's format: {error!r}"
        ) from error


def load_detections(
    truth: COCO, results_file: str | os.PathLike, *, score_threshold: float = 0.0
) -> COCO:
    """Detections of the images of ``truth``, as detectron2's COCO evaluator writes them.

    Args:
        truth: of :func:`load_truth`.
        results_file: ``coco_instances_results.json``.
        score_threshold: detections below this score are left out.

    Raises:
        ValueError: if the file isn't one of boxes, or one of other images; names it.
    """
    found = _read_json(results_file)
    try:
        found = [
            {key: detection[key] for key in ("image_id", "category_id", "bbox", "score")}
            for detection in found
            if detection["score"] >= score_threshold
        ]
    except (KeyError, TypeError) as error:
        raise ValueError(f"{results_file} isn't a list of detected boxes: {error!r}") from error
    for number, detection in enumerate(found, start=1):
        if detection["image_id"] not in truth.imgs:
            raise ValueError(
                f"{results_file} has the image {detection['image_id']!r}, which the ground truth "
                "doesn't have: they must be of the same data set"
            )
        area = box_side(detection["bbox"]) ** 2
        detection |= {"id": number, "area": area, "iscrowd": 0}
    dataset = truth.dataset
    return _indexed(
        {
            "images": dataset["images"],
            "categories": dataset["categories"],
            "annotations": found,
        }
    )


def match(
    truth: COCO,
    detections: COCO,
    *,
    side_ranges: Sequence[tuple[float, float]] = (EVERY_SIDE,),
    iou_thresholds: Sequence[float] | None = None,
) -> COCOeval:
    """COCO's matching of detections to objects of their class, not yet accumulated.

    All detections count, however many an image has.

    Args:
        truth, detections: of :func:`load_truth` and :func:`load_detections`.
        side_ranges: (lowest, limit) in pixels each; the limit itself isn't in the range.
        iou_thresholds: COCO's, 0.5 to 0.95, if None.
    """
    evaluation = COCOeval(truth, detections, "bbox")
    parameters = evaluation.params
    # COCOeval's ranges have both ends, which would count an object of side 32 twice.
    parameters.areaRng = [
        [low**2, np.nextafter(min(high, 1e5) ** 2, 0.0)] for low, high in side_ranges
    ]
    parameters.areaRngLbl = [f"{low}-{high}" for low, high in side_ranges]
    if iou_thresholds is not None:
        parameters.iouThrs = np.array(iou_thresholds)
    parameters.maxDets = [max(map(len, detections.imgToAnns.values()), default=1)]
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation.evaluate()
    return evaluation


def box_side(box: Sequence[float]) -> float:
    """The side in pixels of COCO's x, y, width, height: the square root of the area."""
    return float(np.sqrt(box[2] * box[3]))


def range_label(low: float, high: float) -> str:
    """What a range of whole numbers or sizes is called, its limit not in it."""
    if high == float("inf"):
        return f"≥ {low:g}"
    return f"< {high:g}" if low == 0 else f"{low:g}–{high:g}"


def side_groups(limits: Sequence[float]) -> list[tuple[float, float]]:
    """The (lowest, limit) of the groups that ``limits`` cut all sides into."""
    edges = [0, *limits, float("inf")]
    return list(zip(edges, edges[1:]))


def _read_json(path: str | os.PathLike):
    try:
        with open(path) as file:
            return json.load(file)
    except ValueError as error:
        raise ValueError(f"{path} isn't JSON: {error}") from error


def _indexed(dataset: dict) -> COCO:
    coco = COCO()
    coco.dataset = dataset
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
    return coco
