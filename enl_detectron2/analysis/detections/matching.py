"""Ground truth and detections in COCO's format, and which of them belong together.

pycocotools does the matching. Sizes are those of boxes: an object's side is the square root of its
box's area, with or without a mask.
"""

import contextlib
import io
import json
import logging
import os
from collections import Counter
from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from enl_detectron2.training.data.coco_file import is_box, is_number, read_coco
from enl_detectron2.utils.errors import BadImage

SIDES = (8, 12, 16, 24, 32, 48, 96)  # pixels, the limits of size groups
EVERY_SIDE = (0.0, float("inf"))

logger = logging.getLogger(__name__)


def load_truth(annotation_file: str | os.PathLike) -> COCO:
    """The ground truth, each annotation's ``area`` that of its box, its ``id`` from 1.

    What has only one meaning is put right as for a training, see ``read_coco``. Annotations
    without a box, of an image or a category that the file doesn't have, are left out
    with a warning; a category without a name gets its number as name.

    Raises:
        ValueError: if the file isn't one of COCO's format; names it and the entry.
        FileNotFoundError: if it isn't there.
    """
    coco = read_coco(annotation_file)
    try:
        parts = {key: getattr(coco, key) for key in ("images", "annotations", "categories")}
        images, categories = (_ids(parts[key], key) for key in ("images", "categories"))
        for image in parts["images"]:
            if not isinstance(image.get("file_name"), str):
                raise ValueError(f"image {image['id']!r} must have a file_name, a string")
        for category in parts["categories"]:
            name = category.get("name")
            category["name"] = f"category {category['id']}" if name is None else str(name)
        parts["annotations"] = _usable(annotation_file, parts["annotations"], images, categories)
        return _indexed(parts)
    except ValueError as error:
        raise ValueError(f"{annotation_file} is not a ground truth: {error}") from error


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
    content = _read_json(results_file)
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


def _ids(entries: list[dict[str, Any]], kind: str) -> set[int | str]:
    """The ids of images or categories, which COCOeval sorts in one array of NumPy's."""
    ids = [entry.get("id") for entry in entries]
    if not ids:
        raise ValueError(f"it has no {kind}")
    whole = all(isinstance(i, int) and not isinstance(i, bool) and abs(i) < 2**63 for i in ids)
    if not whole and not all(isinstance(i, str) for i in ids):
        raise ValueError(f"the ids of {kind} must be all whole numbers of 64 bits or all strings")
    if len(set(ids)) < len(ids):
        twice = next(i for i in ids if ids.count(i) > 1)
        raise ValueError(f"two {kind} have the id {twice!r}")
    return set(ids)


def _usable(
    file: str | os.PathLike, annotations: list[dict[str, Any]], images: set, categories: set
) -> list[dict[str, Any]]:
    """The annotations that mean something, numbered from 1; the others are counted in the log."""
    usable, left_out = [], Counter()
    for place, annotation in enumerate(annotations):
        crowd = annotation.get("iscrowd", 0)
        if crowd not in (0, 1):
            raise ValueError(
                f"annotation {annotation.get('id', place)!r} has iscrowd {crowd!r}, neither 0 nor 1"
            )
        if not _is_one_of(annotation.get("image_id"), images):
            left_out["of images that the file doesn't have"] += 1
        elif not _is_one_of(annotation.get("category_id"), categories):
            left_out["of categories that the file doesn't have"] += 1
        elif not _has_box(annotation):
            left_out["without a box of four finite numbers, none of its sides negative"] += 1
        else:
            # COCOeval takes a match with annotation 0 for none, and a missing iscrowd as an error.
            number, area = len(usable) + 1, box_side(annotation["bbox"]) ** 2
            usable.append(annotation | {"id": number, "area": area, "iscrowd": crowd})
    for what, number in left_out.items():
        logger.warning(
            "%s: left out are %d of %d annotations, %s", file, number, len(annotations), what
        )
    return usable


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


def _read_json(path: str | os.PathLike) -> Any:
    content = Path(path).read_bytes()
    try:
        return json.loads(content)
    except RecursionError as error:
        raise ValueError(f"{path} isn't of COCO's format: it is nested too deeply") from error
    except ValueError as error:
        raise ValueError(f"{path} isn't JSON: {error}") from error


def _indexed(dataset: dict) -> COCO:
    coco = COCO()
    coco.dataset = dataset
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
    return coco
