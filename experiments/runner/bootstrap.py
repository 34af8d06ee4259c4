"""How far a difference of AP would move on other test images: a paired bootstrap over images.

COCOeval matches detections and objects image by image; that is done once. A resample counts each
image as often as it was drawn, and AP is summed up anew from the matches. It is what COCOeval's
own summing up gives of these images; with each drawn once it is COCOeval's AP to the last bit.
"""

import contextlib
import copy
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

RESAMPLES = 1000
SIZES = {"AP": "all", "APs": "small", "APm": "medium", "APl": "large"}  # COCOeval's ranges
EPSILON = np.spacing(1)  # COCOeval's


@dataclass(frozen=True)
class Matches:
    """Of one class and IoU threshold: the detections that count, by falling score.

    Attributes:
        image: of each, its place in COCOeval's order.
        is_true: whether each is matched with an object.
        objects: of the class in each image.
        thresholds: of recall.
    """

    image: np.ndarray
    is_true: np.ndarray
    objects: np.ndarray
    thresholds: np.ndarray

    def precisions(self, weights: np.ndarray) -> np.ndarray | None:
        """At the thresholds of recall, if each image counts so often; None without objects."""
        objects = weights @ self.objects
        if objects == 0:
            return None
        weight = weights[self.image]
        # Between two true ones precision only falls, and recall stays, so these alone matter.
        true = np.cumsum(weight[self.is_true])
        precision = true / (np.cumsum(weight)[self.is_true] + EPSILON)
        envelope = np.maximum.accumulate(precision[::-1])[::-1]
        place = np.searchsorted(true / objects, self.thresholds, side="left")
        return np.append(envelope, 0.0)[place]


class Bootstrap:
    """One model's AP on any choice of the test images.

    Args:
        evaluation: a COCOeval after ``evaluate()``; the last of its ``maxDets`` counts.
        size: one of its ranges of objects' areas, "all", "small", "medium" or "large".
    """

    def __init__(self, evaluation: COCOeval, size: str = "all"):
        parameters = evaluation.params
        self.num_images = len(parameters.imgIds)
        area = parameters.areaRngLbl.index(size)
        of_images = np.array([*evaluation.evalImgs, None], dtype=object)[:-1].reshape(
            len(parameters.catIds), len(parameters.areaRng), self.num_images
        )
        self._matches = [
            matches
            for of_class in of_images[:, area]
            for matches in _matches(of_class, parameters)
        ]

    def ap(self, weights: np.ndarray) -> float:
        """AP in percent if each image counts ``weights`` times, in COCOeval's order of images.

        NaN if no such image has an object.
        """
        rows = [matches.precisions(weights) for matches in self._matches]
        known = [row for row in rows if row is not None]
        # COCOeval's own order: thresholds of IoU outermost, then of recall, then classes.
        if not known:
            return float("nan")
        num_ious = self._num_ious
        table = np.array(known).reshape(-1, num_ious, known[0].size).transpose(1, 2, 0)
        return 100 * float(np.mean(table[table > -1]))

    @property
    def _num_ious(self) -> int:
        return len(self._matches) // max(self._num_classes, 1)

    @property
    def _num_classes(self) -> int:
        return len({id(matches.objects) for matches in self._matches})

    def resampled(self, draws: np.ndarray) -> np.ndarray:
        """AP of each row of :func:`draw`."""
        return np.array([self.ap(weights) for weights in draws])


def _matches(of_images: Sequence[dict | None], parameters) -> list[Matches]:
    """Of one class and range of areas, for each IoU threshold."""
    limit = parameters.maxDets[-1]
    found = [(index, one) for index, one in enumerate(of_images) if one is not None]
    objects = np.zeros(len(of_images))
    for index, one in found:
        objects[index] = np.count_nonzero(np.asarray(one["gtIgnore"]) == 0)
    if not objects.any():
        return []
    scores = np.concatenate([one["dtScores"][:limit] for _, one in found])
    order = np.argsort(-scores, kind="mergesort")  # COCOeval's, so that equal scores fall alike
    image = np.concatenate([np.full(len(one["dtScores"][:limit]), index) for index, one in found])
    image = image.astype(int)[order]
    matched = np.concatenate([one["dtMatches"][:, :limit] for _, one in found], axis=1)[:, order]
    ignored = np.concatenate([one["dtIgnore"][:, :limit] for _, one in found], axis=1)[:, order]
    rows = []
    for matched_at, ignored_at in zip(matched.astype(bool), ignored.astype(bool)):
        counts = ~ignored_at
        is_true = matched_at[counts]
        last = is_true.nonzero()[0][-1] + 1 if is_true.any() else 0  # what follows is never read
        rows.append(
            Matches(image[counts][:last], is_true[:last], objects, np.asarray(parameters.recThrs))
        )
    return rows


def draw(num_images: int, resamples: int = RESAMPLES, seed: int = 0) -> np.ndarray:
    """(resamples, num_images): how often each image is drawn, the same for all models."""
    generator = np.random.default_rng(seed)
    chances = np.full(num_images, 1 / num_images)
    return generator.multinomial(num_images, chances, size=resamples).astype(float)


def evaluate(annotations: COCO, detections: Path, kind: str, limit: int) -> COCOeval:
    """The matches of a ``coco_instances_results.json``, as detectron2 evaluates it.

    Args:
        annotations: of the test images.
        detections: the file.
        kind: "bbox" or "segm".
        limit: detections an image that count.
    """
    results = json.loads(Path(detections).read_text())
    if kind == "segm":  # a mask's own area, not its box's, as detectron2 has it
        results = [{key: value for key, value in one.items() if key != "bbox"} for one in results]
    with contextlib.redirect_stdout(io.StringIO()):
        found = annotations.loadRes(copy.deepcopy(results)) if results else COCO()
        evaluation = COCOeval(annotations, found, kind)
        evaluation.params.maxDets = [limit]
        evaluation.evaluate()
    return evaluation


def percentiles(values: np.ndarray) -> tuple[float, float]:
    """The 95 % interval of resampled values; NaN if there are none."""
    values = values[~np.isnan(values)]
    if not values.size:
        return float("nan"), float("nan")
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)
