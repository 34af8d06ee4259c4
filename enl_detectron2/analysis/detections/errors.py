"""Which objects evaluated models find: by their size, and by how often their class repeats.

The papers argue that a small object is found more easily if the image holds more of its class.
:func:`repetition_effect` says whether that holds for a model on a data set.
"""

import contextlib
import copy
import io
import math
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from tqdm import tqdm

from enl_detectron2.analysis.palette import SMALL_SIDE

from .matching import (
    EVERY_SIDE,
    SIDES,
    box_side,
    load_detections,
    load_truth,
    match,
    range_label,
    side_groups,
)

# Where groups of numbers of objects begin, after the first, which is those alone.
COUNTS = (2, 3, 5, 9, 17, 33, 65, 129)
SMALL_RANGE = (0.0, float(SMALL_SIDE))


@dataclass(frozen=True)
class Row:
    """One group of objects. The metrics are percent, None if the group has no objects.

    ``recall`` is the share of the objects that are found at IoU 0.5 by a detection above the score
    threshold; ``AP50`` and ``AP`` are COCO's, of all detections, means over the classes.
    """

    label: str
    objects: int
    recall: float | None
    AP50: float | None
    AP: float | None


@dataclass(frozen=True)
class RepetitionEffect:
    """How the recall of small objects changes each time that the number of their class doubles.

    Points of percent with a 95 % interval; None if the data can't tell.
    """

    points: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class ErrorAnalysis:
    """One model: all objects, also by side, small ones by the number of objects of their class."""

    every: Row
    by_side: list[Row]
    by_count: list[Row]
    effect: RepetitionEffect


@dataclass(frozen=True)
class Objects:
    """The objects of a data set, an entry of each array for each."""

    image: np.ndarray
    category: np.ndarray
    side: np.ndarray  # pixels
    count: np.ndarray  # of objects of its class in its image, itself included
    found: np.ndarray  # 0 or 1


def analyze_errors(
    annotation_file: str | os.PathLike,
    results: Mapping[str, str | os.PathLike],
    *,
    score_threshold: float = 0.5,
) -> dict[str, ErrorAnalysis]:
    """What each model finds of the same ground truth.

    Args:
        annotation_file: ground truth in COCO's format.
        results: a ``coco_instances_results.json`` for each model, by the model's name.
        score_threshold: what a detection needs to count for recall. Without one, recall says
            little: low scores cost nothing, so a model may claim every class everywhere.

    Raises:
        ValueError: if a file isn't what it should be; names it.
    """
    truth = load_truth(annotation_file)
    with tqdm(results.items(), unit="model") as bar:
        return {
            name: _analyze(truth, load_detections(truth, file), score_threshold)
            for name, file in bar
        }


def _analyze(truth: COCO, detections: COCO, score_threshold: float) -> ErrorAnalysis:
    # The range of small objects first: accumulate() can leave out later ranges only.
    sides = side_groups(SIDES)
    evaluation = match(truth, detections, side_ranges=[SMALL_RANGE, EVERY_SIDE, *sides])
    objects = _objects(truth, evaluation, score_threshold)
    precision = _precision(evaluation)
    every = _row("all", objects.found, precision[1])
    by_side = [
        _row(range_label(*limits), objects.found[_within(objects.side, limits)], of_group)
        for limits, of_group in zip(sides, precision[2:])
    ]

    small = objects.side < SMALL_SIDE
    edges = [1, *COUNTS, math.inf]
    by_count = []
    for limits in zip(edges, edges[1:]):
        group = small & _within(objects.count, limits)
        pairs = set(zip(objects.image[group].tolist(), objects.category[group].tolist()))
        of_group = _precision(_only(evaluation, pairs))[0]
        by_count.append(_row(_count_label(*limits), objects.found[group], of_group))
    return ErrorAnalysis(every, by_side, by_count, repetition_effect(objects, small))


def _within(values: np.ndarray, limits: tuple[float, float]) -> np.ndarray:
    return (values >= limits[0]) & (values < limits[1])


def _count_label(low: float, limit: float) -> str:
    if limit == math.inf:
        return f"≥ {low:g}"
    return f"{low:g}" if limit == low + 1 else f"{low:g}–{limit - 1:g}"


def _row(label: str, found: np.ndarray, precision: np.ndarray) -> Row:
    if not len(found):
        return Row(label, 0, None, None, None)
    return Row(
        label, len(found), 100 * found.mean(), 100 * precision[0].mean(), 100 * precision.mean()
    )


def _objects(truth: COCO, evaluation: COCOeval, score_threshold: float) -> Objects:
    """Each object but crowds; found if a detection of that score matches it at IoU 0.5."""
    num_images = len(evaluation.params.imgIds)
    # evalImgs has classes outermost, then ranges of sizes, then images.
    every_side = (
        np.array(evaluation.evalImgs, dtype=object)
        .reshape(-1, len(evaluation.params.areaRng), num_images)[:, 1]
        .ravel()
    )
    scores = {number: one["score"] for number, one in evaluation.cocoDt.anns.items()}
    scores[0] = -math.inf  # matched by none
    found = {
        object_id: scores[int(detection_id)] >= score_threshold
        for one in every_side
        if one is not None
        for object_id, detection_id in zip(one["gtIds"], one["gtMatches"][0])
    }
    annotations = [annotation for annotation in truth.anns.values() if not annotation["iscrowd"]]
    counts = Counter((a["image_id"], a["category_id"]) for a in annotations)
    return Objects(
        image=np.array([a["image_id"] for a in annotations]),
        category=np.array([a["category_id"] for a in annotations]),
        side=np.array([box_side(a["bbox"]) for a in annotations]),
        count=np.array([counts[a["image_id"], a["category_id"]] for a in annotations]),
        found=np.array([found[a["id"]] for a in annotations], dtype=float),
    )


def _only(evaluation: COCOeval, pairs: set[tuple]) -> COCOeval:
    """The evaluation on some pairs of an image and a class, of small objects only."""
    part = copy.copy(evaluation)
    part.evalImgs = [
        one if one and (one["image_id"], one["category_id"]) in pairs else None
        for one in evaluation.evalImgs
    ]
    part.params = copy.deepcopy(evaluation.params)
    part.params.areaRng = part.params.areaRng[:1]
    return part


def _precision(evaluation: COCOeval) -> np.ndarray:
    """(ranges of sizes, IoU thresholds): AP from 0 to 1, the mean over the classes that occur."""
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation.accumulate()
    precision = evaluation.eval["precision"][..., 0]  # thresholds, recalls, classes, ranges
    known = np.ma.masked_less(precision, 0)
    return known.mean(axis=(1, 2)).filled(np.nan).T


def repetition_effect(objects: Objects, chosen: np.ndarray) -> RepetitionEffect:
    """How recall changes with the number of objects of a class, between otherwise like objects.

    Crowded images hold other classes and sizes than empty ones, so each object is compared with
    those of its class and size group only: the slope of a linear fit of found (0 or 1) on log2 of
    the number, with a constant for each such group. Objects of one image share its conditions, so
    the interval counts images, not objects, as independent.

    Args:
        objects: those of a data set.
        chosen: a boolean for each, whether it takes part.
    """
    if not chosen.any():
        return RepetitionEffect(None, None, None)
    size = np.digitize(objects.side[chosen], SIDES)
    _, group = np.unique(np.stack([objects.category[chosen], size]), axis=1, return_inverse=True)
    group = group.ravel()
    members = np.bincount(group)

    def centred(values: np.ndarray) -> np.ndarray:
        return values - (np.bincount(group, values) / members)[group]

    doublings = centred(np.log2(objects.count[chosen]))
    found = centred(objects.found[chosen])
    spread = (doublings**2).sum()
    _, image = np.unique(objects.image[chosen], return_inverse=True)
    images = image.max() + 1
    if spread < 1e-9 or images < 2:
        return RepetitionEffect(None, None, None)
    slope = (doublings * found).sum() / spread
    # The variance of a fit whose errors are independent between clusters, here images.
    of_image = np.bincount(image, doublings * (found - slope * doublings))
    error = math.sqrt((of_image**2).sum() * images / (images - 1)) / spread
    return RepetitionEffect(
        *(100 * value for value in (slope, slope - 1.96 * error, slope + 1.96 * error))
    )
