"""Several models on the same images, side by side with the ground truth: what each one misses."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pycocotools.coco import COCO

from .matching import EVERY_SIDE, box_side, load_detections, load_truth, match

Box = Sequence[float]  # x, y, width, height


@dataclass(frozen=True)
class Findings:
    """What one model found on one image.

    Args:
        found: numbers of those small objects that it found.
        hits: detections of small objects that are right, each a box and its label.
        false: small detections that are wrong, likewise.
        others: boxes that are only shown, faintly.
    """

    found: frozenset[int]
    hits: list[tuple[Box, str]]
    false: list[tuple[Box, str]]
    others: list[Box]


@dataclass(frozen=True)
class ImageComparison:
    """One image: its entry in the ground truth, its small objects by their number, its other
    objects, each model's findings."""

    entry: Mapping[str, Any]
    small: dict[int, Box]
    large: list[Box]
    findings: dict[str, Findings]

    @property
    def file_name(self) -> str:
        return self.entry["file_name"]

    @property
    def difference(self) -> int:
        """How much the models differ: objects only some of them find, plus false ones more."""
        found = [findings.found for findings in self.findings.values()]
        false = [len(findings.false) for findings in self.findings.values()]
        only_some = frozenset.union(*found) - frozenset.intersection(*found)
        return len(only_some) + max(false) - min(false)


def compare_detections(
    annotation_file: str | os.PathLike,
    results: Mapping[str, str | os.PathLike],
    *,
    score_threshold: float,
    small_side: float,
) -> list[ImageComparison]:
    """What two or three models find and miss, the images on which they differ most first.

    A detection is right if it matches an object of its class at IoU 0.5, as COCO has it.

    Args:
        annotation_file: ground truth in COCO's format.
        results: a ``coco_instances_results.json`` for each model, by the model's name.
        score_threshold: detections below this score are left out.
        small_side: boxes are small below this side, the square root of their area in pixels.

    Raises:
        ValueError: if a file isn't what it should be, naming it.
    """
    truth = load_truth(annotation_file)
    findings = {
        name: _findings(
            truth, load_detections(truth, file, score_threshold=score_threshold), small_side
        )
        for name, file in results.items()
    }
    comparisons = []
    for image_id, entry in truth.imgs.items():
        objects = [a for a in truth.imgToAnns[image_id] if not a["iscrowd"]]
        comparisons.append(
            ImageComparison(
                entry,
                small={a["id"]: a["bbox"] for a in objects if box_side(a["bbox"]) < small_side},
                large=[a["bbox"] for a in objects if box_side(a["bbox"]) >= small_side],
                findings={name: of_model[image_id] for name, of_model in findings.items()},
            )
        )
    return sorted(comparisons, key=lambda comparison: -comparison.difference)


def _findings(truth: COCO, detections: COCO, small_side: float) -> dict[int, Findings]:
    evaluation = match(truth, detections, iou_thresholds=[0.5], side_ranges=[EVERY_SIDE])
    found: dict[int, set[int]] = {image_id: set() for image_id in truth.imgs}
    hits, false, others = ({image_id: [] for image_id in truth.imgs} for _ in range(3))
    names = {number: category["name"] for number, category in truth.cats.items()}
    if len(names) == 1:  # then it tells nothing
        names = dict.fromkeys(names, "")
    for one in evaluation.evalImgs:
        if one is None:
            continue
        image_id, label = one["image_id"], names[one["category_id"]]
        for detection_id, object_id, ignored in zip(
            one["dtIds"], one["dtMatches"][0], one["dtIgnore"][0]
        ):
            box = detections.anns[detection_id]["bbox"]
            is_small = box_side(box) < small_side
            # What lies on a crowd is neither right nor wrong.
            if ignored:
                others[image_id].append(box)
            elif not object_id and is_small:
                false[image_id].append((box, label))
            elif not object_id:
                others[image_id].append(box)
            elif box_side(truth.anns[object_id]["bbox"]) < small_side:
                found[image_id].add(int(object_id))
                hits[image_id].append((box, label))
            else:
                others[image_id].append(box)
    return {
        image_id: Findings(
            frozenset(found[image_id]), hits[image_id], false[image_id], others[image_id]
        )
        for image_id in truth.imgs
    }
