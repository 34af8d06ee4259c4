#!/usr/bin/env python
"""What three ENL blocks add to Faster R-CNN R50-FPN: time, memory and multiply-adds.

    python benchmarks/detector.py
    python benchmarks/detector.py --device cuda

Both detectors have the same random weights, but for the blocks' own, and their heads see the same
number of regions. Each memory format is compared with itself. Takes some 7 minutes on two idle
cores, one on a GPU; results/detector.md and detector_cuda.md say what came out.
"""

import argparse
import itertools
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import harness
import torch
from detectron2.solver import build_optimizer
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage
from harness import milliseconds, ratio
from torch import nn

from enl_detectron2.analysis.cost.measurement import measure
from enl_detectron2.analysis.cost.multiply_adds import count_multiply_adds
from enl_detectron2.analysis.cost.random_model import (
    build_random_model,
    fixed_regions,
    random_image,
)
from enl_detectron2.training.config import load_config

CONFIGS = Path(__file__).parents[1] / "configs"
FILES = {
    "baseline": str(CONFIGS / "rcnn_R50.yaml"),
    "+3ENL TD": str(CONFIGS / "enl_rcnn_R50.yaml"),
}
LAYOUTS = {"contiguous": torch.contiguous_format, "channels last": torch.channels_last}
IMAGE_SIZE = (800, 1066)
# Steps so small that the weights stay as they are, and the work of all steps the same.
OPTIONS = ["SOLVER.BASE_LR", "1e-9"]
PRECISIONS = {"cpu": ("float32",), "cuda": ("float32", "TF32", "float16")}
INFERENCE_SECONDS = {"cpu": 60, "cuda": 2}
TRAINING_SECONDS = {"cpu": 80, "cuda": 4}

Results = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description="Measures a detector with ENL blocks.")
    parser.add_argument("--device", choices=sorted(PRECISIONS), default="cpu")
    device = parser.parse_args().device
    results = {"machine": harness.machine(device), "image_size": IMAGE_SIZE}
    # First, as memory that the models below have taken would slow the processes of their own.
    if device == "cpu":
        results["process"] = {name: process_memory(file) for name, file in FILES.items()}
    models = same_models(FILES, OPTIONS)
    results["multiply_adds"] = {
        name: sum(count_multiply_adds(model, IMAGE_SIZE).values()) for name, model in models.items()
    }
    tables = []
    for layout, precision in itertools.product(LAYOUTS, PRECISIONS[device]):
        for model in models.values():
            model.to(device, memory_format=LAYOUTS[layout])
        with harness.precision(precision, device):
            measured = {
                "inference": inference(models, IMAGE_SIZE, INFERENCE_SECONDS[device]),
                "training": training(models, IMAGE_SIZE, TRAINING_SECONDS[device]),
            }
        title = layout if device == "cpu" else f"{layout}, {precision}"
        results[title] = measured
        tables.append(table(results | measured, title))
    name = "detector" if device == "cpu" else f"detector_{device}"
    harness.write_results(name, results, tables)


def process_memory(config_file: str) -> Results:
    """The peak of an inference in a process of its own, with Python, PyTorch and the weights."""
    measurement = measure(config_file, [], IMAGE_SIZE)
    return {"before": measurement.memory_before, "peak": measurement.memory_peak}


def same_models(files: dict[str, str], options: list[str]) -> dict[str, nn.Module]:
    """Models of random weights; those that the first has, all have."""
    models = {
        name: build_random_model(load_config(file, options), "cpu") for name, file in files.items()
    }
    first, *others = models.values()
    for model in others:
        missing = model.load_state_dict(first.state_dict(), strict=False)
        if missing.unexpected_keys:
            raise RuntimeError(f"not the same detector: {missing.unexpected_keys}")
    return models


@torch.no_grad()
def inference(models: dict[str, nn.Module], size: tuple[int, int], seconds: float) -> Results:
    """One image; the heads are given all regions that they may ever be given."""
    inputs = [{"image": random_image(size)}]
    functions = {name: partial(model, inputs) for name, model in models.items()}
    with ExitStack() as stack:
        for model in models.values():
            stack.enter_context(fixed_regions(model.eval(), size))
        device = device_of(models)
        times = harness.interleaved_times(functions, seconds=seconds, device=device)
        peaks = {name: harness.peak_bytes(function, device) for name, function in functions.items()}
    return timed(times) | {"peak_bytes": peaks}


def training(models: dict[str, nn.Module], size: tuple[int, int], seconds: float) -> Results:
    """One step on one image: forward, losses, backward, optimizer."""
    optimizers = {
        name: build_optimizer(load_config(FILES[name], OPTIONS), model)
        for name, model in models.items()
    }
    inputs = [{"image": random_image(size), "instances": objects(size)}]
    regions: dict[str, int] = {}

    def step(name: str) -> None:
        with EventStorage() as storage:
            losses = models[name](inputs)
            latest = storage.latest()
        optimizers[name].zero_grad()
        sum(losses.values()).backward()
        optimizers[name].step()
        kinds = ("roi_head/num_fg_samples", "roi_head/num_bg_samples")
        regions[name] = int(sum(latest[kind][0] for kind in kinds))

    for model in models.values():
        model.train()
    functions = {name: partial(step, name) for name in models}
    times = harness.interleaved_times(functions, seconds=seconds, device=device_of(models))
    return timed(times) | {"regions": regions}


def device_of(models: dict[str, nn.Module]) -> torch.device:
    return next(iter(models.values())).device


def timed(times: harness.Times) -> Results:
    first, *others = times
    return {
        "rounds": len(times[first]),
        "ms": milliseconds(times),
        "ratio": {name: ratio(times, name, first) for name in others},
        "seconds": times,
    }


def objects(size: tuple[int, int]) -> Instances:
    """Twenty squares of 40 to 135 pixels along the image's diagonal, of the first class."""
    height, width = size
    place = torch.linspace(0, 0.8, 20)
    corner = torch.stack([place * width, place * height], dim=1)
    side = torch.linspace(40, 135, 20)[:, None]
    instances = Instances(size)
    instances.gt_boxes = Boxes(torch.cat([corner, corner + side], dim=1))
    instances.gt_classes = torch.zeros(20, dtype=torch.int64)
    return instances


def table(results: Results, layout: str) -> str:
    rows = [row(results, name) for name in results["multiply_adds"]]
    height, width = results["image_size"]
    return harness.table(f"Faster R-CNN R50-FPN, {height}×{width}, {layout}", rows)


def row(results: Results, name: str) -> Results:
    """One detector's line. The first one's ratio to itself is 1."""
    first = next(iter(results["multiply_adds"]))

    def compared(quantities: dict[str, float]) -> float:
        return quantities[name] / quantities[first]

    process_peaks = {own: memory["peak"] for own, memory in results.get("process", {}).items()}
    process = (
        {
            "process peak MiB": process_peaks[name] / 2**20,
            "÷ baseline ": compared(process_peaks),
        }
        if process_peaks
        else {}
    )
    return {
        "": name,
        "multiply-adds G": results["multiply_adds"][name] / 1e9,
        "more G": (results["multiply_adds"][name] - results["multiply_adds"][first]) / 1e9,
        "inference s": results["inference"]["ms"][name] / 1e3,
        "÷ baseline": results["inference"]["ratio"].get(name, 1.0),
        **process,
        "PyTorch peak MiB": results["inference"]["peak_bytes"][name] / 2**20,
        " ÷ baseline": compared(results["inference"]["peak_bytes"]),
        "training step s": results["training"]["ms"][name] / 1e3,
        " ÷ baseline ": results["training"]["ratio"].get(name, 1.0),
    }


if __name__ == "__main__":
    main()
