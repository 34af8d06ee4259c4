"""How far a difference of AP would move on other test images: a paired bootstrap over images.

COCOeval matches detections and objects image by image; that is done once. A resample counts each
image as often as it was drawn, and AP is summed up anew from the matches. It is what COCOeval's
own summing up gives of these images; with each drawn once it is COCOeval's AP to the last bit.
"""

import contextlib
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from scipy.sparse import csr_matrix

RESAMPLES = 1000
SIZES = {"AP": "all", "APs": "small", "APm": "medium", "APl": "large"}  # COCOeval's ranges
EPSILON = np.spacing(1)  # COCOeval's


@dataclass(frozen=True)
class Matches:
    """Of one class and IoU threshold: the detections that are matched, by falling score.

    Between two of them precision only falls, and recall stays, so others matter by number alone.

    Attributes:
        image: of each, its place in COCOeval's order.
        counted: (detections, images), how many that count there are in each image since the
            matched one before, itself included.
    """

    image: np.ndarray
    counted: csr_matrix

    def precisions(self, weights: np.ndarray, objects: np.ndarray, thresholds: np.ndarray):
        """At ``thresholds`` of recall (R,), if images count ``weights`` (images, B) times.

        Args:
            weights: of each choice of images, a column.
            objects: (B,) of the class; none is 0.
            thresholds: of recall.

        Returns:
            (R, B).
        """
        true = np.cumsum(weights[self.image], axis=0)
        precision = true / (np.cumsum(self.counted @ weights, axis=0) + EPSILON)
        envelope = np.maximum.accumulate(precision[::-1], axis=0)[::-1]
        envelope = np.concatenate([envelope, np.zeros((1, weights.shape[1]))])
        recall = np.ascontiguousarray((true / objects).T)
        place = np.stack([np.searchsorted(row, thresholds, side="left") for row in recall], axis=1)
        return np.take_along_axis(envelope, place, axis=0)


@dataclass(frozen=True)
class ClassMatches:
    """Of one class: its objects in each image, and its matches at each IoU threshold."""

    objects: np.ndarray
    at_ious: list[Matches]


class Bootstrap:
    """One model's AP on any choice of the test images.

    Args:
        evaluation: a COCOeval after ``evaluate()``; the last of its ``maxDets`` counts.
        size: one of its ranges of objects' areas, "all", "small", "medium" or "large".
    """

    def __init__(self, evaluation: COCOeval, size: str = "all"):
        parameters = evaluation.params
        self.num_images = len(parameters.imgIds)
        self.num_ious = len(parameters.iouThrs)
        self.thresholds = np.asarray(parameters.recThrs)
        area = parameters.areaRngLbl.index(size)
        of_images = np.array(evaluation.evalImgs, dtype=object).reshape(
            len(parameters.catIds), len(parameters.areaRng), self.num_images
        )
        of_classes = (_matches(of_class, parameters) for of_class in of_images[:, area])
        self.classes = [matches for matches in of_classes if matches is not None]

    def ap(self, weights: np.ndarray) -> np.ndarray:
        """AP in percent of some choices of the images.

        Args:
            weights: (choices, images), how often each image counts, in COCOeval's order of them.

        Returns:
            (choices,); NaN where no such image has an object.
        """
        columns = np.ascontiguousarray(weights.T, dtype=float)
        objects = np.array([one.objects for one in self.classes]).reshape(-1, self.num_images)
        objects = objects @ columns
        shape = (self.num_ious, len(self.thresholds), *objects.shape)
        table = np.empty(shape)  # COCOeval's own order of axes, so that its mean rounds alike
        for index, of_class in enumerate(self.classes):
            number = np.maximum(objects[index], 1)  # where there are none the column isn't read
            for iou, matches in enumerate(of_class.at_ious):
                table[iou, :, index] = matches.precisions(columns, number, self.thresholds)
        aps = np.full(len(weights), np.nan)
        for choice, known in enumerate(objects.T > 0):
            if known.any():
                values = table[..., choice][:, :, known]
                aps[choice] = 100 * np.mean(np.ascontiguousarray(values).ravel())
        return aps

    def resampled(self, draws: np.ndarray) -> np.ndarray:
        """AP of each row of :func:`draw`."""
        return np.concatenate(
            [self.ap(part) for part in np.split(draws, range(50, len(draws), 50))]
        )


def _matches(of_images: Sequence[dict | None], parameters) -> ClassMatches | None:
    """Of one class and range of areas; None if there are no such objects."""
    limit = parameters.maxDets[-1]
    found = [(index, one) for index, one in enumerate(of_images) if one is not None]
    objects = np.zeros(len(of_images))
    for index, one in found:
        objects[index] = np.count_nonzero(np.asarray(one["gtIgnore"]) == 0)
    if not objects.any():
        return None
    scores = np.concatenate([one["dtScores"][:limit] for _, one in found])
    order = np.argsort(-scores, kind="mergesort")  # COCOeval's, so that equal scores fall alike
    image = np.repeat(
        [index for index, _ in found], [len(one["dtScores"][:limit]) for _, one in found]
    )[order]
    matched = np.concatenate([one["dtMatches"][:, :limit] for _, one in found], axis=1)[:, order]
    ignored = np.concatenate([one["dtIgnore"][:, :limit] for _, one in found], axis=1)[:, order]
    at_ious = [
        _matches_at_iou(image, is_matched, ~is_ignored, len(of_images))
        for is_matched, is_ignored in zip(matched.astype(bool), ignored.astype(bool))
    ]
    return ClassMatches(objects, at_ious)


def _matches_at_iou(image: np.ndarray, is_matched, counts, num_images: int) -> Matches:
    image, is_true = image[counts], is_matched[counts]
    num_true = np.count_nonzero(is_true)
    # The matched detection that each leads to; what comes after the last is never read.
    leads_to = np.cumsum(is_true) - is_true
    read = leads_to < num_true
    ones = np.ones(np.count_nonzero(read))
    counted = csr_matrix((ones, (leads_to[read], image[read])), shape=(num_true, num_images))
    return Matches(image[is_true], counted)


def draw(num_images: int, resamples: int = RESAMPLES, seed: int = 0) -> np.ndarray:
    """(resamples, num_images): how often each image is drawn, the same for all models."""
    generator = np.random.default_rng(seed)
    chances = np.full(num_images, 1 / num_images)
    return generator.multinomial(num_images, chances, size=resamples).astype(float)


def evaluate(
    annotations: COCO,
    detections: Path,
    kind: str,
    limit: int,
    ious: Sequence[float] | None = None,
) -> COCOeval:
    """The matches of a ``coco_instances_results.json``, as detectron2 evaluates it.

    Args:
        annotations: of the test images.
        detections: the file.
        kind: "bbox" or "segm".
        limit: detections an image that count.
        ious: the thresholds; COCO's, 0.5 to 0.95, if None.
    """
    results = json.loads(Path(detections).read_text())
    if kind == "segm":  # a mask's own area, not its box's, as detectron2 has it
        results = [{key: value for key, value in one.items() if key != "bbox"} for one in results]
    with contextlib.redirect_stdout(io.StringIO()):
        found = annotations.loadRes(results) if results else COCO()
    return match(annotations, found, kind, limit, ious)


def match(
    annotations: COCO,
    found: COCO,
    kind: str,
    limit: int,
    ious: Sequence[float] | None = None,
    classes: Sequence[str] = (),
) -> COCOeval:
    """The matches of detections that are read already; of some classes, by name, or of all."""
    evaluation = COCOeval(annotations, found, kind)
    evaluation.params.maxDets = [limit]
    if ious is not None:
        evaluation.params.iouThrs = np.array(ious)
    if classes:
        evaluation.params.catIds = annotations.getCatIds(catNms=list(classes))
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation.evaluate()
    return evaluation


def remembered(
    file: Path, source: Path, make: Callable[[], dict[str, np.ndarray]]
) -> dict[str, np.ndarray]:
    """What ``make()`` gives for ``source``: from ``file``, unless that is missing or older, as a
    bootstrap takes some 15 s a run."""
    if file.exists() and file.stat().st_mtime_ns > source.stat().st_mtime_ns:
        with np.load(file) as arrays:
            return dict(arrays)
    made = make()
    np.savez(file, **made)
    return made


def percentiles(values: np.ndarray) -> tuple[float, float]:
    """The 95 % interval of resampled values; NaN if there are none."""
    values = values[~np.isnan(values)]
    if not values.size:
        return float("nan"), float("nan")
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)
