"""What region proposal networks propose, and how many of the objects they reach."""

import csv
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from detectron2.modeling import ProposalNetwork
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.modeling.proposal_generator import RPN
from detectron2.structures import Boxes, BoxMode, pairwise_iou
from pycocotools.coco import COCO
from tabulate import tabulate
from torch import Tensor
from tqdm import tqdm

from enl_detectron2.analysis.detector import Detector, naming
from enl_detectron2.analysis.drawing import shortened

from .comparison import Findings
from .matching import SIDES, box_side, range_label, require_size, side_groups

LIMITS = (100, 300, 1000)  # how many proposals, the best, may reach an object
IOU_THRESHOLD = 0.5

Propose = Callable[[str, Mapping[str, Any]], Tensor]


@dataclass(frozen=True)
class ProposalRecall:
    """Of the objects of each group of ``side_groups(SIDES)``: how many there are, and which share
    of them is reached at each of ``LIMITS``, in percent (None where there are no objects)."""

    objects: list[int]
    recall: list[dict[int, float | None]]


def make_proposer(detector: Detector, name: str) -> Propose:
    """A function from an image file to its proposals, at most ``max(LIMITS)``, the best first.

    It takes what the ground truth says of the image, too, whose size must be the file's. It gives
    (n, 4) boxes, x₀ y₀ x₁ y₁ in pixels of the image. The RPN hands on that many, whatever its
    configuration says.

    Raises:
        ValueError: if the model has no RPN; names it.
    """
    rpn = getattr(detector.model, "proposal_generator", None)
    if not isinstance(rpn, RPN):
        raise ValueError(f"{name!r} has no region proposal network, so it proposes nothing")
    rpn.pre_nms_topk[False] = max(max(LIMITS), rpn.pre_nms_topk[False])
    rpn.post_nms_topk[False] = max(LIMITS)

    @torch.no_grad()
    def propose(image_file: str, image: Mapping[str, Any]) -> Tensor:
        record = detector.read(image_file)
        require_size(image, image_file, record["height"], record["width"])
        with naming(image_file):
            if isinstance(detector.model, ProposalNetwork):
                (output,) = detector.model([record])
                return output["proposals"].proposal_boxes.tensor.cpu()
            images = detector.model.preprocess_image([record])
            (proposals,), _ = rpn(images, detector.model.backbone(images.tensor), None)
            resized = detector_postprocess(proposals, record["height"], record["width"])
            return resized.proposal_boxes.tensor.cpu()

    return propose


def evaluate_proposals(
    truth: COCO,
    image_folder: str | os.PathLike,
    propose: Propose,
    *,
    shown: int,
    small_side: float,
    progress: str,
) -> tuple[dict[int, Findings], ProposalRecall]:
    """Every image's small proposals among the first ones, and the recall of all objects.

    An object is reached if a proposal overlaps it at IoU 0.5 or more.

    Args:
        truth: of ``load_truth``.
        image_folder: where its images lie.
        propose: of :func:`make_proposer`.
        shown: how many proposals, the best, the findings are about.
        small_side: the findings hold boxes below this side only, the root of their area in pixels.
        progress: what the progress bar is called.

    Raises:
        BadImage: (a ValueError) if an image can't be read, or has another size than the ground
            truth says; names it.
    """
    findings, sides, overlaps = {}, [], []
    with tqdm(truth.imgs.items(), desc=shortened(progress), unit="image") as bar:
        for image_id, image in bar:
            boxes = propose(os.path.join(image_folder, image["file_name"]), image)
            objects = [a for a in truth.imgToAnns[image_id] if not a["iscrowd"]]
            corners = [
                BoxMode.convert(a["bbox"], BoxMode.XYWH_ABS, BoxMode.XYXY_ABS) for a in objects
            ]
            iou = pairwise_iou(Boxes(boxes), Boxes(torch.tensor(corners).reshape(-1, 4)))
            best_of_shown = _best(iou, shown)
            size = boxes[:shown, 2:] - boxes[:shown, :2]
            small = boxes[:shown][size.prod(dim=1).sqrt() < small_side]
            findings[image_id] = Findings(
                found=frozenset(
                    a["id"]
                    for a, overlap in zip(objects, best_of_shown)
                    if overlap >= IOU_THRESHOLD and box_side(a["bbox"]) < small_side
                ),
                others=BoxMode.convert(small, BoxMode.XYXY_ABS, BoxMode.XYWH_ABS).tolist(),
            )
            sides += [box_side(a["bbox"]) for a in objects]
            overlaps.append(torch.stack([_best(iou, limit) for limit in LIMITS]))
    reached = torch.cat(overlaps, dim=1).numpy() >= IOU_THRESHOLD  # (limits, objects)
    return findings, _recall(np.array(sides), reached)


def _best(iou: Tensor, limit: int) -> Tensor:
    """Of each object the best overlap with one of the first boxes; (boxes, objects) → (objects,)"""
    # A row of zeros, for where there are no boxes.
    return torch.cat([iou[:limit], iou.new_zeros(1, iou.shape[1])]).max(dim=0).values


def _recall(sides: np.ndarray, reached: np.ndarray) -> ProposalRecall:
    objects, recall = [], []
    for low, high in side_groups(SIDES):
        group = (sides >= low) & (sides < high)
        objects.append(int(group.sum()))
        recall.append(
            {
                limit: 100 * float(of_limit[group].mean()) if group.any() else None
                for limit, of_limit in zip(LIMITS, reached)
            }
        )
    return ProposalRecall(objects, recall)


def format_recall(recalls: Mapping[str, ProposalRecall]) -> str:
    """A line for each group of sizes that has objects, columns for each model and limit."""
    headers = ["box side, px", "objects"]
    headers += [f"{shortened(name)}\n{limit}" for name in recalls for limit in LIMITS]
    lines = [line for line in _lines(recalls) if line[1]]
    table = tabulate(lines, headers, floatfmt=".1f")
    limits = ", ".join(map(str, LIMITS))
    return (
        f"{table}\n\nPercent of the objects that one of the first {limits} proposals overlaps at "
        f"IoU {IOU_THRESHOLD} or more."
    )


def write_recall(recalls: Mapping[str, ProposalRecall], path: str | os.PathLike) -> None:
    """The table as CSV."""
    columns = [f"{name}, {limit} proposals" for name in recalls for limit in LIMITS]
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["box side, px", "objects", *columns], *_lines(recalls)])


def _lines(recalls: Mapping[str, ProposalRecall]) -> list[list[Any]]:
    """Of each group its name, how many objects it has, and each model's recall at each limit."""
    objects = next(iter(recalls.values())).objects
    return [
        [range_label(*limits), objects[group]]
        + [of_model.recall[group][limit] for of_model in recalls.values() for limit in LIMITS]
        for group, limits in enumerate(side_groups(SIDES))
    ]
