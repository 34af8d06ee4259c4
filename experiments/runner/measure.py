"""What the report needs of a trained run."""

import itertools
import json
import logging
import math
import statistics
from collections.abc import Mapping
from typing import Any

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

METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")
PROBED_IMAGES = 20  # for the size of what the blocks add

logger = logging.getLogger(__name__)


def metrics_of(grid: Grid, run: Run) -> dict[int, dict[str, float]]:
    """What detectron2 has written of a training so far, by iteration.

    A resumed run does some iterations twice; what was logged last stands. A warning names lines
    that a kill has cut.
    """
    file = grid.folder(run) / "metrics.json"
    lines = file.read_text(errors="replace").splitlines() if file.exists() else []
    metrics: dict[int, dict[str, float]] = {}
    for number, line in enumerate(lines, start=1):
        try:
            entry = json.loads(line)
            metrics.setdefault(entry["iteration"], {}).update(entry)
        except (ValueError, KeyError, TypeError):
            logger.warning("%s, line %d, is cut or damaged and left out", file, number)
    return dict(sorted(metrics.items()))


def is_test(entry: Mapping[str, float]) -> bool:
    return any(key in entry for key in ("bbox/AP", "segm/AP"))


def measure(grid: Grid, run: Run) -> dict[str, Any]:
    """A line's measured part.

    ``metrics`` are the boxes' COCO metrics and ``mask_metrics`` the masks', in percent, None where
    there are no such objects; ``recall_by_side`` and ``recall_by_count`` those of
    :func:`analyze_errors`, of sets that COCO's evaluator tests; ``added_by_blocks`` the norm of
    what each relation block adds, in multiples of its input's; ``seconds_per_step`` the median;
    ``multiply_adds`` those of one image of the system's or the grid's ``image_size``, or else of a
    photograph of 4:3 at the test's size.

    Raises:
        ConfigError: if the run isn't tested on exactly one data set.
    """
    folder = grid.folder(run)
    cfg = grid.configuration(run)
    if len(cfg.DATASETS.TEST) != 1:
        raise ConfigError(f"{run.name}: DATASETS.TEST must name one set, got {cfg.DATASETS.TEST}")
    register_coco_format(cfg.DATASETS.COCO_FORMAT)
    entries = metrics_of(grid, run).values()
    tests = [entry for entry in entries if is_test(entry)]
    if not tests:
        raise ConfigError(f"{run.name}: {folder / 'metrics.json'} has no results of a test")
    tested_on = MetadataCatalog.get(cfg.DATASETS.TEST[0])
    recall = {"recall_by_side": {}, "recall_by_count": {}}
    if tested_on.get("evaluator_type") == "coco":
        results = folder / "inference" / "coco_instances_results.json"
        errors = analyze_errors(tested_on.json_file, {"": results})[""]
        for key, rows in zip(recall, (errors.by_side, errors.by_count)):
            recall[key] = {row.label: row.recall for row in rows}
    cfg.MODEL.WEIGHTS = str(grid.weights(run))
    model = load_detector(cfg).model
    height = cfg.INPUT.MIN_SIZE_TEST
    size = grid.systems[run.system].get("image_size", grid.image_size)
    size = size or (height, round(height * 4 / 3))
    times = [entry["time"] for entry in entries if "time" in entry]
    masks = {"mask_metrics": _metrics(tests[-1], "segm")} if "segm/AP" in tests[-1] else {}
    return {
        "metrics": _metrics(tests[-1], "bbox"),
        **recall,
        "added_by_blocks": _added_by_blocks(model, cfg),
        "parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "multiply_adds": sum(count_multiply_adds(model.cpu(), tuple(size)).values()),
        "steps": cfg.SOLVER.MAX_ITER,
        "images": cfg.SOLVER.MAX_ITER * cfg.SOLVER.IMS_PER_BATCH,
        "seconds_per_step": statistics.median(times) if times else None,
    } | masks


def _metrics(entry: Mapping[str, float], kind: str) -> dict[str, float | None]:
    values = {name: entry.get(f"{kind}/{name}", math.nan) for name in METRICS}
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
    return {name: statistics.mean(values) for name, values in ratios.items()}
