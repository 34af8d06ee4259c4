#!/usr/bin/env python
"""What being batched with a larger photograph changes in a photograph's features and detections.

    python benchmarks/padding.py

detectron2 pads a batch to its largest image. The model zoo's two trained detectors, without blocks
and with ENL blocks, see each photograph of the package alone, and beside itself at twice its size;
ENL also with blocks that attend to the padding, as the papers' do. Takes a minute on two cores;
results/padding.md says what came out.
"""

import argparse
import math
import statistics
from pathlib import Path
from typing import Any

import harness
import torch
from detectron2.structures import Instances, pairwise_iou
from torch import Tensor, nn
from torch.nn import functional as F

from enl_detectron2 import model_zoo
from enl_detectron2.analysis.detector import Detector, load_detector
from enl_detectron2.model_zoo import PHOTOGRAPHS
from enl_detectron2.training.config import load_config

LEVELS = {"p3": 8, "p4": 16, "p5": 32}  # strides
PLAIN, ENL = "trained/nuclei_rcnn_lite0.yaml", "trained/nuclei_enl_rcnn_lite0.yaml"
ATTEND = ["MODEL.ENL_FPN.ATTEND_TO_PADDING", "True"]
SYSTEMS: dict[str, tuple[str, list[str]]] = {
    "plain FPN": (PLAIN, []),
    "ENL": (ENL, []),
    "ENL, padding attended to": (ENL, ATTEND),
}
SCORE, IOU = 0.5, 0.5  # of detections that count, and of two that are the same

Row = dict[str, Any]


def main() -> None:
    results = {"machine": harness.machine()}
    photographs = sorted(PHOTOGRAPHS.glob("*.jpg"))
    results["photographs"] = [row for each in SYSTEMS for row in rows(each, photographs)]
    harness.write_results("padding", results, tables(results))


def trained(system: str) -> Detector:
    file, options = SYSTEMS[system]
    weights = ["MODEL.WEIGHTS", model_zoo.get_checkpoint_file(file), "MODEL.DEVICE", "cpu"]
    return load_detector(load_config(model_zoo.get_config_file(file), [*weights, *options]))


# ---------------------------------------------------------------------------- difference


def rows(system: str, photographs: list[Path]) -> list[Row]:
    """A row a photograph."""
    detector = trained(system)
    return [
        {
            "system": system,
            "photograph": each.stem,
            **difference(detector.model, detector.read(each)),
        }
        for each in photographs
    ]


@torch.no_grad()
def difference(model: nn.Module, record: Row) -> Row:
    """Of a photograph alone and beside itself at twice its size.

    ``by_level``: the largest absolute difference of the features inside it, in multiples of the
    level's largest value. ``alone``, ``beside``: how many objects are found; ``in_both``: how many
    of them are the same.
    """
    larger = F.interpolate(record["image"][None].float(), scale_factor=2.0)[0]
    batches = [record], [record, {"image": larger}]
    alone, beside = (features(model, batch) for batch in batches)
    by_level = {}
    for level, stride in LEVELS.items():
        height, width = (math.ceil(length / stride) for length in record["image"].shape[1:])
        a, b = (each[level][0, :, :height, :width] for each in (alone, beside))
        by_level[level] = ((a - b).abs().max() / a.abs().max()).item()
    found, also = (model(batch)[0]["instances"] for batch in batches)
    return {"by_level": by_level, **common(found, also)}


def features(model: nn.Module, batch: list[Row]) -> dict[str, Tensor]:
    return model.backbone(model.preprocess_image(batch).tensor)


def common(found: Instances, also: Instances) -> dict[str, int]:
    """How many objects two calls found, and how many of the first are among the second's."""
    found, also = (each[each.scores >= SCORE] for each in (found, also))
    overlap = pairwise_iou(found.pred_boxes, also.pred_boxes)
    in_both = int((overlap >= IOU).any(dim=1).sum()) if len(also) else 0
    return {"alone": len(found), "beside": len(also), "in_both": in_both}


# ---------------------------------------------------------------------------- tables


def tables(results: Row) -> list[str]:
    systems = list(dict.fromkeys(row["system"] for row in results["photographs"]))
    title = "Each photograph alone, and beside itself at twice its size"
    return [
        harness.table(title, [columns(system, results["photographs"]) for system in systems]),
    ]


def columns(system: str, photographs: list[Row]) -> Row:
    """One system's line: of the levels the median over the photographs, and the largest."""
    own = [row for row in photographs if row["system"] == system]
    columns: Row = {"system": system}
    for level in LEVELS:
        values = [row["by_level"][level] for row in own]
        columns[f"{level.upper()}, median"] = statistics.median(values)
        columns[f"{level.upper()}, largest"] = max(values)
    return columns | {
        "found alone": sum(row["alone"] for row in own),
        "found beside": sum(row["beside"] for row in own),
        "found in both": sum(row["in_both"] for row in own),
    }


if __name__ == "__main__":
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    main()
