"""Ground truth and detections in COCO's format, and which of them belong together.

pycocotools does the matching. Sizes are those of boxes: an object's side is the square root of its
box's area, with or without a mask.
"""

import contextlib
import io
import json
import logging
import os
from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from enl_detectron2.training.data.check import read_sound
from enl_detectron2.training.data.coco_file import is_box, is_number
from enl_detectron2.utils.errors import BadImage

SIDES = (8, 12, 16, 24, 32, 48, 96)  # pixels, the limits of size groups
EVERY_SIDE = (0.0, float("inf"))

logger = logging.getLogger(__name__)


def load_truth(annotation_file: str | os.PathLike) -> COCO:
    """The ground truth, each annotation's ``area`` that of its box, its ``id`` from 1.

    What has only one meaning is put right as for a training, see ``read_coco``; annotations of
    images that the file doesn't have are left out with a warning.

    Raises:
        ConfigError: (a ValueError) if the file can't be used; names it and the first error.
    """
    coco, _ = read_sound(annotation_file)
    images = {image["id"] for image in coco.images}
    objects = [one for one in coco.annotations if one["image_id"] in images]
    if lost := len(coco.annotations) - len(objects):
        logger.warning("%s: left out are %d annotations of images not in it", coco.path, lost)
    # COCOeval takes a match with annotation 0 for none.
    objects = [
        one | {"id": number, "area": box_side(one["bbox"]) ** 2}
        for number, one in enumerate(objects, start=1)
    ]
    return _indexed({"images": coco.images, "categories": coco.categories, "annotations": objects})


def load_detections(
    truth: COCO, results_file: str | os.PathLike, *, score_threshold: float = 0.0
) -> COCO:
    """Detections of the images of ``truth``, as detectron2's COCO evaluator writes them.

    Args:
        truth: of :func:`load_truth`.
        results_file: ``coco_instances_results.json``.
        score_threshold: detections below this score are left out.

    Raises:
        ValueError: if the file isn't one of boxes, or one of other images or categories; names it
            and the entry.
    """
    try:
        content = json.loads(Path(results_file).read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{results_file} isn't JSON: {error}") from error
    if not isinstance(content, list):
        raise ValueError(
            f"{results_file} isn't a list of detected boxes, but a {type(content).__name__}"
        )
    found = []
    for number, detection in enumerate(content, start=1):
        try:
            detection = _checked(truth, detection)
        except ValueError as error:
            raise ValueError(
                f"{results_file} isn't a list of boxes detected on this ground truth: entry "
                f"{number} {error}"
            ) from error
        if detection["score"] >= score_threshold:
            area = box_side(detection["bbox"]) ** 2
            found.append(detection | {"id": len(found) + 1, "area": area, "iscrowd": 0})
    dataset = truth.dataset
    return _indexed(
        {
            "images": dataset["images"],
            "categories": dataset["categories"],
            "annotations": found,
        }
    )


def _checked(truth: COCO, detection: Any) -> dict[str, Any]:
    if not isinstance(detection, dict):
        raise ValueError(f"is a {type(detection).__name__}")
    entry = {
        key: detection[key]
        for key in ("image_id", "category_id", "bbox", "score")
        if key in detection
    }
    for key, known in (("image_id", truth.imgs), ("category_id", truth.cats)):
        if key not in detection:
            raise ValueError(f"has no {key}")
        if isinstance(entry[key], str) and entry[key].isdecimal() and entry[key] not in known:
            entry[key] = int(entry[key])  # as read_coco takes the ground truth's
        if not _is_one_of(entry[key], known):
            raise ValueError(
                f"has the {key} {detection[key]!r}, which the ground truth doesn't have"
            )
    if not _has_box(detection):
        raise ValueError(f"has the bbox {detection.get('bbox')!r}, no x, y, width and height")
    if not is_number(detection.get("score")):
        raise ValueError(f"has the score {detection.get('score')!r}")
    return entry


def _is_one_of(value: Any, known: Container[int | str]) -> bool:
    return isinstance(value, (int, float, str)) and not isinstance(value, bool) and value in known


def _has_box(entry: dict[str, Any]) -> bool:
    """Whether an entry has a box as COCO has it: x, y, and sides that aren't negative."""
    return is_box(entry, sized=False) and min(entry["bbox"][2:]) >= 0


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


def require_size(
    image: Mapping[str, Any], file: str | os.PathLike, height: int, width: int
) -> None:
    """Raises unless an image has the size that its entry in the ground truth says, if it says one.

    Boxes of an image that was resized since would be taken for others.

    Raises:
        BadImage: (a ValueError) if it hasn't; names the file and both sizes.
    """
    said = image.get("width"), image.get("height")
    if all(isinstance(side, int) for side in said) and said != (width, height):
        raise BadImage(
            f"{file} has {width}×{height} pixels, but the ground truth is of {said[0]}×{said[1]}"
        )


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


def _indexed(dataset: dict) -> COCO:
    coco = COCO()
    coco.dataset = dataset
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
    return coco
