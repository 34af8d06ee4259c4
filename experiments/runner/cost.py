"""What the runs that are left will take: told before any starts."""

from dataclasses import dataclass

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from tabulate import tabulate

from .grid import Grid, Run

BYTES = 4  # a number of float32
# Copies of each trained number in a checkpoint: itself and what its optimiser keeps.
COPIES = {"SGD": 2, "AdamW": 3}


@dataclass(frozen=True)
class Cost:
    """Of one run: images and steps of its training, hours of one device, bytes on the disk."""

    run: Run
    images: int
    steps: int
    hours: float | None
    bytes: int


def costs(grid: Grid, runs: list[Run], rate: float | None = None) -> list[Cost]:
    """What is expected of runs from their start to their end.

    Args:
        grid: that they belong to.
        runs: of it.
        rate: images a second on one device, for all systems; the grid's own if None.
    """
    if runs:
        grid.register()
    sizes: dict[tuple, int] = {}
    found = []
    for run in runs:
        cfg = grid.configuration(run)
        if (key := (run.system, run.variant)) not in sizes:
            sizes[key] = checkpoint_bytes(cfg)
        steps = cfg.SOLVER.MAX_ITER
        images = steps * cfg.SOLVER.IMS_PER_BATCH
        a_second = rate or grid.rate.get("images_per_second")
        if isinstance(a_second, dict):
            a_second = a_second.get(run.system)
        hours = images / a_second / 3600 if a_second else None
        # One a period, unless the last step's coincides with it, and the final one.
        checkpoints = (steps - 1) // cfg.SOLVER.CHECKPOINT_PERIOD + 1
        found.append(Cost(run, images, steps, hours, checkpoints * sizes[key]))
    return found


def checkpoint_bytes(cfg: CfgNode) -> int:
    """Of one checkpoint, with the optimiser's state; the model is built without its numbers."""
    cfg = cfg.clone()
    cfg.MODEL.DEVICE = "meta"
    with torch.device("meta"):
        model = build_model(cfg)
    copies = COPIES[cfg.SOLVER.OPTIMIZER]
    numbers = sum(p.numel() * (copies if p.requires_grad else 1) for p in model.parameters())
    return BYTES * (numbers + sum(buffer.numel() for buffer in model.buffers()))


def table(grid: Grid, expected: list[Cost], rate: float | None = None) -> str:
    """A row a run, their sum, and at which rate."""
    device = "device" if rate else grid.rate.get("device", "device")
    rows = [
        {
            "run": cost.run.name,
            "images": f"{cost.images:,}",
            "steps": f"{cost.steps:,}",
            f"{device} hours": "?" if cost.hours is None else f"{cost.hours:,.1f}",
            "disk, GB": f"{cost.bytes / 1e9:.2f}",
        }
        for cost in expected
    ]
    hours = [cost.hours for cost in expected]
    rows.append(
        {
            "run": f"{len(expected)} runs",
            "images": f"{sum(cost.images for cost in expected):,}",
            "steps": f"{sum(cost.steps for cost in expected):,}",
            f"{device} hours": "?" if None in hours else f"{sum(hours):,.1f}",
            "disk, GB": f"{sum(cost.bytes for cost in expected) / 1e9:.2f}",
        }
    )
    align = ["left", *["right"] * 4]
    text = tabulate(rows, headers="keys", disable_numparse=True, colalign=align)
    if None in hours:
        return f"{text}\nHours take a rate, images a second on one device: --rate says one."
    where = f"{rate:g} images a second and device" if rate else grid.rate.get("where", "a rate")
    return f"{text}\nHours: at {where}. --rate says another."
