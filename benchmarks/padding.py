#!/usr/bin/env python
"""What the company of larger images changes in an image's features, and what leaving the padding
out costs a block.

    python benchmarks/padding.py

detectron2 pads a batch to its largest image. An image's P3 to P5 are compared, alone and beside a
larger image, for the plain FPN, for blocks that leave the padding out and for blocks that attend to
it, as the papers' do. The cost is that of one block on a padded map, with its extent and without.
Takes some 10 minutes on two cores; results/padding.md says what came out.
"""

import math
import statistics
from functools import partial
from pathlib import Path
from typing import Any

import harness
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_backbone
from detectron2.structures import ImageList
from harness import milliseconds, ratio
from torch import Tensor, nn

from enl_detectron2.layers import ENLBlock
from enl_detectron2.modeling.build import relation_block_names
from enl_detectron2.training.config import load_config

CONFIGS = Path(__file__).parents[1] / "configs"
LEVELS = {"p3": 8, "p4": 16, "p5": 32}  # strides
SIZES = [((472, 630), (608, 800)), ((200, 260), (608, 800))]  # of the image, and of its company
CALIBRATION = (10, (4, 3, 128, 160))  # batches of noise, and their shape
SYSTEMS = {
    "plain FPN": "rcnn_R50.yaml",
    "ENL": "enl_rcnn_R50.yaml",
    "NL top-down": "nl_rcnn_R50.yaml",
    "NL in res4": "nl_bu_rcnn_R50.yaml",
}
ATTEND_KEYS = ("MODEL.ENL_FPN.ATTEND_TO_PADDING", "MODEL.NON_LOCAL_RESNET.ATTEND_TO_PADDING")

CHANNELS = 256
MAP_SIZE, INSIDE = (100, 136), (100, 133)  # stride 8 of 800×1066, padded to 800×1088
SECONDS = 120  # for the rounds of one line of the table of costs

Row = dict[str, Any]


def main() -> None:
    results = {"machine": harness.machine()}
    results["cost"] = [cost(batch, training) for training in (False, True) for batch in (1, 2)]
    results["differences"] = [
        row for size, company in SIZES for row in differences(size, company, load_configs())
    ]
    harness.write_results("padding", results, tables(results))


# ---------------------------------------------------------------------------- difference


def load_configs() -> dict[str, CfgNode]:
    """The compared systems; those with blocks in both forms."""
    configs = {}
    for system, file in SYSTEMS.items():
        for attend in (False,) if system == "plain FPN" else (False, True):
            keys = [part for key in ATTEND_KEYS for part in (key, attend)]
            name = f"{system}, padding attended to" if attend else system
            configs[name] = load_config(str(CONFIGS / file), [*keys, "MODEL.DEVICE", "cpu"])
    return configs


def differences(
    size: tuple[int, int], company: tuple[int, int], configs: dict[str, CfgNode]
) -> list[Row]:
    """A row a system, the plain FPN's first: its differences, and the largest in multiples of the
    plain FPN's."""
    rows: list[Row] = []
    for system, cfg in configs.items():
        by_level = difference(build(cfg), size, company)
        largest = max(by_level.values())
        plain = rows[0]["largest"] if rows else largest
        rows.append(
            {
                "size": size,
                "company": company,
                "system": system,
                "by_level": by_level,
                "largest": largest,
                "to_plain": largest / plain,
            }
        )
    return rows


def build(cfg: CfgNode) -> nn.Module:
    """A backbone with random weights, whose batch norm knows noise and whose blocks add about as
    much as their input."""
    cfg = cfg.clone()
    cfg.MODEL.RESNETS.NORM = "BN"
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    torch.manual_seed(0)
    backbone = build_backbone(cfg)
    blocks = [backbone.get_submodule(name) for name in relation_block_names(backbone)]
    for block in blocks:
        harness.awake(block)
    backbone.train()
    batches, shape = CALIBRATION
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for _ in range(batches):
            backbone(torch.randn(shape, generator=generator))
        backbone.eval()
        for block in blocks:  # from coarse to fine, as each changes what the next is given
            scale(block, backbone, torch.randn(shape, generator=generator))
    return backbone


def scale(block: nn.Module, backbone: nn.Module, images: Tensor) -> None:
    """Makes what the block adds to these images' maps as large as its input."""

    def mend(_, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ratio = (output - inputs[0]).norm() / inputs[0].norm()
        block.out.weight /= ratio
        block.out.bias /= ratio

    hook = block.register_forward_hook(mend)
    backbone(images)
    hook.remove()


@torch.no_grad()
def difference(
    backbone: nn.Module, size: tuple[int, int], company: tuple[int, int]
) -> dict[str, float]:
    """The largest absolute difference inside the image, alone and in company, in multiples of the
    level's largest value; by level."""
    generator = torch.Generator().manual_seed(0)
    image, other = (torch.randn(3, *each, generator=generator) for each in (size, company))
    alone, in_company = (backbone(padded(*images)) for images in ([image], [image, other]))
    by_level = {}
    for level, stride in LEVELS.items():
        height, width = (math.ceil(length / stride) for length in size)
        a, b = (features[level][0, :, :height, :width] for features in (alone, in_company))
        by_level[level] = ((a - b).abs().max() / a.abs().max()).item()
    return by_level


def padded(*images: Tensor) -> Tensor:
    """The batch that detectron2 makes of them."""
    return ImageList.from_tensors(list(images), size_divisibility=32).tensor


# ---------------------------------------------------------------------------- cost


def cost(batch: int, training: bool) -> Row:
    """The block told the extent, over the mean of two calls that aren't told it, in each round: the
    median, and its 95 % interval; the ratio of these two calls is what the clock is worth."""
    block = harness.awake(ENLBlock(CHANNELS))
    x = harness.random_map(batch, CHANNELS, MAP_SIZE).requires_grad_(training)
    extent = torch.tensor([INSIDE] * batch)
    gradient = torch.ones_like(x)

    def step(*arguments: Tensor) -> None:
        x.grad = None
        block.zero_grad()
        block(x, *arguments).backward(gradient)

    with torch.set_grad_enabled(training):
        run = step if training else partial(block, x)
        functions = {"plain": run, "again": run, "extent": partial(run, extent)}
        times = harness.interleaved_times(functions, seconds=SECONDS, rounds=(3, 1000))
    plain = [statistics.mean(pair) for pair in zip(times["plain"], times["again"])]
    return {
        "training": training,
        "batch": batch,
        "rounds": len(plain),
        "ms": milliseconds(times),
        "extent_to_plain": ratio({**times, "plain": plain}, "extent", "plain"),
        "interval": median_interval([a / b for a, b in zip(times["extent"], plain)]),
        "again_to_plain": ratio(times, "again", "plain"),
    }


def median_interval(values: list[float]) -> tuple[float, float]:
    """The 95 % interval of the median: of n values n/2 lie below it, give or take σ = √n/2."""
    values, half = sorted(values), math.isqrt(len(values))
    middle = len(values) // 2
    return values[max(middle - half, 0)], values[min(middle + half, len(values) - 1)]


# ---------------------------------------------------------------------------- tables


def tables(results: Row) -> list[str]:
    return [
        harness.table(
            "Largest difference of an image's features, alone and in company",
            [difference_columns(row) for row in results["differences"]],
        ),
        harness.table(
            f"What leaving the padding out costs a block, C = {CHANNELS}, "
            f"{by(INSIDE)} padded to {by(MAP_SIZE)}",
            [cost_columns(row) for row in results["cost"]],
        ),
    ]


def by(size: tuple[int, int]) -> str:
    height, width = size
    return f"{height}×{width}"


def difference_columns(row: Row) -> Row:
    return {
        "image": by(row["size"]),
        "company": by(row["company"]),
        "system": row["system"],
        **{level.upper(): f"{value:.2f}" for level, value in row["by_level"].items()},
        "largest": f"{row['largest']:.2f}",
        "largest, to plain FPN's": f"{row['to_plain']:.2f}",
    }


def cost_columns(row: Row) -> Row:
    return {
        "": "forward and backward" if row["training"] else "inference",
        "batch": row["batch"],
        "block ms": row["ms"]["plain"],
        "with extent ÷ without": f"{row['extent_to_plain']:.3f}",
        "95 %": "{:.3f} to {:.3f}".format(*row["interval"]),
        "without ÷ itself": f"{row['again_to_plain']:.3f}",
        "rounds": row["rounds"],
    }


if __name__ == "__main__":
    main()
