"""What the report needs of a trained run."""

import itertools
import math
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog, build_detection_test_loader
from torch import nn

from enl_detectron2.analysis.cost.multiply_adds import count_multiply_adds
from enl_detectron2.analysis.detections.errors import analyze_errors
from enl_detectron2.analysis.detector import load_detector
from enl_detectron2.modeling import relation_blocks
from enl_detectron2.training.data import register_coco_format
from enl_detectron2.utils.errors import ConfigError

from .grid import Grid, Run
from .worker import metrics_lines

METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")
PROBED_IMAGES = 20  # for the size of what the blocks add


def measure(grid: Grid, run: Run) -> dict[str, Any]:
    """A line's measured part.

    ``metrics`` are the boxes' COCO metrics and ``mask_metrics`` the masks', in percent, None where
    there are no such objects; ``recall_by_side`` and ``recall_by_count`` those of
    :func:`analyze_errors`; ``added_by_blocks`` the norm of what each relation block adds, in
    multiples of its input's; ``seconds_per_step`` the median; ``multiply_adds`` those of one image
    of the grid's ``image_size``, or else of a photograph of 4:3 at the test's size.

    Raises:
        ConfigError: if the run isn't tested on exactly one data set.
    """
    folder = grid.folder(run)
    cfg = grid.configuration(run)
    if len(cfg.DATASETS.TEST) != 1:
        raise ConfigError(f"{run.name}: DATASETS.TEST must name one set, got {cfg.DATASETS.TEST}")
    register_coco_format(cfg.DATASETS.COCO_FORMAT)
    lines = metrics_lines(folder)
    tested = [line for line in lines if "bbox/AP" in line]
    if not tested:
        raise ConfigError(f"{run.name}: {folder / 'metrics.json'} has no results of a test")
    errors = analyze_errors(
        MetadataCatalog.get(cfg.DATASETS.TEST[0]).json_file,
        {"": folder / "inference" / "coco_instances_results.json"},
    )[""]
    cfg.MODEL.WEIGHTS = str(grid.weights(run))
    model = load_detector(cfg).model
    height = cfg.INPUT.MIN_SIZE_TEST
    size = grid.image_size or (height, round(height * 4 / 3))
    times = [line["time"] for line in lines if "time" in line]
    values = {
        "metrics": _metrics(tested[-1], "bbox"),
        "recall_by_side": {row.label: row.recall for row in errors.by_side},
        "recall_by_count": {row.label: row.recall for row in errors.by_count},
        "added_by_blocks": _added_by_blocks(model, cfg),
        "parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "multiply_adds": sum(count_multiply_adds(model.cpu(), tuple(size)).values()),
        "steps": cfg.SOLVER.MAX_ITER,
        "images": cfg.SOLVER.MAX_ITER * cfg.SOLVER.IMS_PER_BATCH,
        "seconds_per_step": float(np.median(times)) if times else None,
    }
    if "segm/AP" in tested[-1]:
        values["mask_metrics"] = _metrics(tested[-1], "segm")
    return values


def _metrics(line: dict[str, float], kind: str) -> dict[str, float | None]:
    values = {name: line[f"{kind}/{name}"] for name in METRICS}
    # JSON has no NaN, which is what COCO's evaluation says where there are no such objects.
    return {name: None if math.isnan(value) else value for name, value in values.items()}


def _added_by_blocks(model: nn.Module, cfg: CfgNode) -> dict[str, float]:
    """A block without effect adds next to nothing."""
    ratios: dict[str, list[float]] = {}
    handles = []
    for name, block in relation_blocks(model).items():
        if next(block.parameters(), None) is None:  # the empty one, where a level has none
            continue

        def record(_, inputs, output, name=name):
            ratio = (output - inputs[0]).norm() / inputs[0].norm()
            ratios.setdefault(name, []).append(ratio.item())

        handles.append(block.register_forward_hook(record))
    if handles:
        with torch.no_grad():
            loader = build_detection_test_loader(cfg, cfg.DATASETS.TEST[0])
            for inputs in itertools.islice(loader, PROBED_IMAGES):
                model(inputs)
    for handle in handles:
        handle.remove()
    return {name: sum(values) / len(values) for name, values in ratios.items()}
