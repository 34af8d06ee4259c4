#!/usr/bin/env python
"""The ENL block beside two that fit the same place: mmcv's NonLocal2d and ContextBlock.

    pip install --no-deps --target build/peers -r benchmarks/requirements-peers.txt
    PYTHONPATH=build/peers python benchmarks/peers.py

Takes about a minute on two cores; results/peers.md says what came out.
"""

import argparse
from functools import partial
from importlib.metadata import version
from typing import Any

import harness
import torch
from harness import milliseconds, ratio
from mmcv.cnn.bricks import ContextBlock, NonLocal2d
from torch import nn

from enl_detectron2.analysis.cost.multiply_adds import count_by_module
from enl_detectron2.layers import ENLBlock

CHANNELS = 256
SIZES = ((25, 34), (50, 68), (100, 136))
SECONDS = 10  # for the rounds of one map size

Row = dict[str, Any]


def main() -> None:
    results = {
        "machine": harness.machine(),
        "mmcv-lite": version("mmcv-lite"),
        "channels": CHANNELS,
        "blocks": [row for size in SIZES for row in compare(blocks(), size)],
    }
    rows = [columns(row) for row in results["blocks"]]
    title = f"Inference, batch 1, {CHANNELS} channels, mmcv-lite {results['mmcv-lite']}"
    harness.write_results("peers", results, [harness.table(title, rows)])


def blocks() -> dict[str, nn.Module]:
    """Each with its defaults, and the widths that its paper gives it."""
    return {
        "ENLBlock": harness.randomized(ENLBlock(CHANNELS)),
        "NonLocal2d": NonLocal2d(CHANNELS).eval(),
        "ContextBlock": ContextBlock(CHANNELS, ratio=1 / 16).eval(),
    }


@torch.no_grad()
def compare(blocks: dict[str, nn.Module], size: tuple[int, int]) -> list[Row]:
    x = harness.random_map(1, CHANNELS, size)
    functions = {name: partial(block, x) for name, block in blocks.items()}
    times = harness.interleaved_times(functions, seconds=SECONDS)
    medians = milliseconds(times)
    return [
        {
            "size": size,
            "block": name,
            "ms": medians[name],
            "to_enl": ratio(times, name, "ENLBlock"),
            "memory": harness.peak_bytes(functions[name]) / x.nbytes - 1,
            "multiply_adds": count_by_module(block, x)[""],
        }
        for name, block in blocks.items()
    ]


def columns(row: Row) -> Row:
    height, width = row["size"]
    return {
        "map": f"{height}×{width}",
        "block": row["block"],
        "ms": row["ms"],
        "time ÷ ENL": row["to_enl"],
        "memory beyond input and output ÷ input": row["memory"],
        "multiply-adds M": row["multiply_adds"] / 1e6,
    }


if __name__ == "__main__":
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    main()
