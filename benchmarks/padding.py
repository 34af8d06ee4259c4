#!/usr/bin/env python
"""What being batched with larger images changes in an image's features.

    python benchmarks/padding.py

detectron2 pads a batch to its largest image. An image's P3 to P5 are compared, alone and beside a
larger image, for the plain FPN, for blocks that leave the padding out and for blocks that attend to
it, as the papers' do. Takes some 2 minutes on two cores; results/padding.md says what came out.
"""

import math
from pathlib import Path
from typing import Any

import harness
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_backbone
from detectron2.structures import ImageList
from torch import Tensor, nn

from enl_detectron2.modeling import relation_blocks
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

Row = dict[str, Any]


def main() -> None:
    results = {"machine": harness.machine()}
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
    blocks = [block for block in relation_blocks(backbone).values() if list(block.parameters())]
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


# ---------------------------------------------------------------------------- tables


def tables(results: Row) -> list[str]:
    return [
        harness.table(
            "Largest difference of an image's features, alone and in company",
            [difference_columns(row) for row in results["differences"]],
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


if __name__ == "__main__":
    main()
