#!/usr/bin/env python
"""What is found on large photographs: looked at whole, in tiles, and by SAHI in the same slices.

    python benchmarks/tiles.py --annotations nuclei_val.json --images nuclei_val/

Photographs of one size are put together to a mosaic, as near to a square as they fill: of the 93
of the trained nuclei detector's test, 87 in four mosaics of 1.2 to 3.3 million pixels.
--as-they-are leaves photographs as they are. SAHI comes with `make optional`; without it, it is
left out. Takes some minutes on one core; results/tiles.md says what came out.
"""

import argparse
import contextlib
import importlib.util
import io
import json
import math
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import harness
import numpy as np
from pycocotools.coco import COCO

from enl_detectron2.analysis.detections.matching import (
    EVERY_SIDE,
    load_detections,
    load_truth,
    match,
    range_label,
)
from enl_detectron2.analysis.detections.prediction import predict
from enl_detectron2.analysis.detections.results import as_results, category_ids
from enl_detectron2.analysis.detector import Detector, load_detector
from enl_detectron2.training.config import load_config

RANGES = [EVERY_SIDE, (0.0, 16.0), (16.0, 32.0), (32.0, math.inf)]  # sides of boxes in pixels
SCORE = 0.5  # of detections that count for the recall
Row = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--annotations", required=True)
    parser.add_argument("--images", required=True, type=Path)
    parser.add_argument("--config-file", default="trained/nuclei_enl_rcnn_lite0.yaml")
    parser.add_argument("--tile", type=int, default=512)
    parser.add_argument("--as-they-are", action="store_true", help="no mosaics")
    parser.add_argument("--name", default="tiles", help="of the files in results/")
    parser.add_argument("--opts", nargs=argparse.REMAINDER, default=[])
    args = parser.parse_args()
    cfg = load_config(args.config_file, args.opts)
    detector = load_detector(cfg)
    truth = load_truth(args.annotations)
    pictures = {
        i: detector.read_image(args.images / image["file_name"], "BGR")
        for i, image in truth.imgs.items()
    }
    if not args.as_they_are:
        truth, pictures = mosaics(truth, pictures)
    ways: dict[str, Callable[[np.ndarray], list[Row]]] = {
        "whole": lambda image: found_by(detector, image),
        f"tiles of {args.tile}": lambda image: found_by(replace(detector, tile=args.tile), image),
    }
    if importlib.util.find_spec("sahi"):
        ways[f"SAHI {version('sahi')}, slices of {args.tile}"] = sahi(detector, cfg, args.tile)
    results: Row = {"machine": harness.machine(), "config": args.config_file, "ways": []}
    results["pictures"] = [
        {
            "pixels": f"{image.shape[1]}×{image.shape[0]}",
            "objects": sum(not one["iscrowd"] for one in truth.imgToAnns[i]),
        }
        for i, image in pictures.items()
    ]
    ids = category_ids(detector, truth, args.config_file)
    for way, function in ways.items():
        detections, start = [], time.perf_counter()
        for i, image in pictures.items():
            for one in function(image):
                number = ids[one["category_id"]]
                detections.append({**one, "image_id": i, "category_id": number})
        seconds = (time.perf_counter() - start) / len(pictures)
        results["ways"].append({"way": way, **measured(truth, detections), "s a picture": seconds})
    title = "Percent; AP without a limit of detections, recall at IoU 0.5 and score 0.5 by side"
    tables = [harness.table("Pictures", results["pictures"][:10])]
    harness.write_results(args.name, results, [*tables, harness.table(title, results["ways"])])


def mosaics(truth: COCO, pictures: dict[int, np.ndarray]) -> tuple[COCO, dict[int, np.ndarray]]:
    """Photographs of one size side by side, in columns and rows that are nearly as many."""
    by_size = defaultdict(list)
    for i, image in pictures.items():
        by_size[image.shape].append(i)
    large, annotations = {}, []
    for number, ((height, width, _), members) in enumerate(by_size.items(), start=1):
        columns = math.isqrt(len(members))
        rows = len(members) // columns
        large[number] = np.zeros((rows * height, columns * width, 3), dtype=np.uint8)
        for place, i in enumerate(members[: rows * columns]):
            top, left = place // columns * height, place % columns * width
            large[number][top : top + height, left : left + width] = pictures[i]
            for one in truth.imgToAnns[i]:
                x, y, *sides = one["bbox"]
                moved = {"image_id": number, "bbox": [x + left, y + top, *sides]}
                annotations.append({**one, **moved, "id": len(annotations) + 1})
    whole = COCO()
    images = [
        {"id": n, "file_name": f"{n}.png", "height": image.shape[0], "width": image.shape[1]}
        for n, image in large.items()
    ]
    categories = truth.dataset["categories"]
    whole.dataset = {"images": images, "annotations": annotations, "categories": categories}
    whole.createIndex()
    return whole, large


def found_by(detector: Detector, image: np.ndarray) -> list[Row]:
    instances = predict(detector, image, score_threshold=0.0)
    classes = range(max(instances.pred_classes.tolist(), default=0) + 1)
    return as_results(instances, 0, classes)


def sahi(detector: Detector, cfg: Any, tile: int) -> Callable[[np.ndarray], list[Row]]:
    """SAHI's sliced prediction with its own merging, slices that overlap as our tiles do."""
    from sahi import AutoDetectionModel
    from sahi.predict import get_sliced_prediction

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "config.yaml")
        path.write_text(cfg.dump())
        model = AutoDetectionModel.from_pretrained(
            "detectron2",
            model_path=cfg.MODEL.WEIGHTS,
            config_path=str(path),
            confidence_threshold=cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST,
            device="cpu",
        )

    def find(image: np.ndarray) -> list[Row]:
        found = get_sliced_prediction(
            np.ascontiguousarray(image[:, :, ::-1]),
            model,
            slice_height=tile,
            slice_width=tile,
            overlap_height_ratio=0.25,
            overlap_width_ratio=0.25,
            perform_standard_pred=False,
            verbose=0,
        )
        return [
            {
                "category_id": one.category.id,
                "bbox": [float(value) for value in one.bbox.to_xywh()],
                "score": float(one.score.value),
            }
            for one in found.object_prediction_list
        ]

    return find


def measured(truth: COCO, detections: list[Row]) -> Row:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "results.json")
        file.write_text(json.dumps(detections))
        every = match(truth, load_detections(truth, file), side_ranges=[EVERY_SIDE])
        sure = load_detections(truth, file, score_threshold=SCORE)
    precision = accumulated(every)["precision"]
    precision = np.ma.masked_less(precision[..., 0, 0], 0).mean(axis=(1, 2))
    reached = match(truth, sure, side_ranges=RANGES, iou_thresholds=[0.5])
    recall = np.ma.masked_less(accumulated(reached)["recall"][0, :, :, 0], 0).mean(axis=0)
    row: Row = {"found": len(sure.anns), "AP": 100 * precision.mean(), "AP50": 100 * precision[0]}
    row |= {
        "recall" if limits == EVERY_SIDE else range_label(*limits): 100 * float(value)
        for limits, value in zip(RANGES, recall)
    }
    return {k: round(float(v), 1) if isinstance(v, float) else v for k, v in row.items()}


def accumulated(evaluation: Any) -> Row:
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation.accumulate()
    return evaluation.eval


if __name__ == "__main__":
    main()
