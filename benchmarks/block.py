#!/usr/bin/env python
"""Time and memory of the ENL block, compared with its own four 1×1 convolutions.

    python benchmarks/block.py

The reference is what no implementation can avoid: the time of theta, phi, g and out on the same
input in the same memory format, in the same run. Takes some 5 minutes on two idle cores;
results/block.md says what came out.
"""

import itertools
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import harness
import torch
from harness import milliseconds, ratio
from torch import Tensor

from enl_detectron2.layers import ENLBlock, NonLocalBlock

CHANNELS = 256
BATCHES = (1, 2)
SIZES = ((50, 68), (100, 136), (200, 272))  # strides 16 to 4 of an 800×1088 image
LAYOUTS = {"contiguous": torch.contiguous_format, "channels last": torch.channels_last}
THREADS = (1, 2)
GROWTH_SIZES = ((25, 34), *SIZES, (400, 544))
SECONDS = 3  # for the rounds of one line of a table
SLOWEST = 60  # seconds of one call; slower ones are left out
LARGEST_AFFINITY = 8e9  # bytes of one call; larger ones are left out

Row = dict[str, Any]


def main() -> None:
    block = harness.randomized(ENLBlock(CHANNELS))
    results = {"machine": harness.machine(), "channels": CHANNELS}
    for kind, measure in (("inference", inference), ("training", training)):
        results[kind] = []
        for threads, layout, size, batch in itertools.product(THREADS, LAYOUTS, SIZES, BATCHES):
            torch.set_num_threads(threads)
            row = {"threads": threads, **measure(block, layout, batch, size)}
            print(kind, row, flush=True)
            results[kind].append(row)
    results["memory"] = [
        memory(block, layout, 1, size) for layout, size in itertools.product(LAYOUTS, SIZES)
    ]
    results["bfloat16"] = [bfloat16(block, size) for size in SIZES[:2]]
    # Last, as it holds for the rest of the process.
    results["keeps_freed_memory"] = harness.keep_freed_memory()
    results["growth"] = growth(block, GROWTH_SIZES)
    harness.write_results("block", results, tables(results))


# ---------------------------------------------------------------------------- what is compared


def a_map(layout: str, batch: int, size: tuple[int, int]) -> Tensor:
    return harness.random_map(batch, CHANNELS, size).to(memory_format=LAYOUTS[layout])


def own_extent(x: Tensor) -> Tensor:
    """An image's own part of a map: all but the last fortieth of its width, as of 800×1066."""
    height, width = x.shape[2:]
    return torch.tensor([[height, width - max(width // 40, 1)]] * len(x))


def four_convolutions(block: ENLBlock, x: Tensor) -> Tensor:
    """The projections alone. Nothing is kept of φ and g, so that they cost no more than need be."""
    block.phi(x)
    block.g(x)
    return block.out(block.theta(x))


def explicit_non_local(block: NonLocalBlock, x: Tensor) -> Tensor:
    """A non-local block with the N×N softmax of its affinity in memory."""
    theta, phi, g = (part(x).flatten(2) for part in (block.theta, block.phi, block.g))
    affinity = (theta.transpose(1, 2) @ phi).softmax(dim=2)
    y = (affinity @ g.transpose(1, 2)).transpose(1, 2)
    return x + block.out(y.reshape(*y.shape[:2], *x.shape[2:]))


# ---------------------------------------------------------------------------- measurements


@torch.no_grad()
def inference(block: ENLBlock, layout: str, batch: int, size: tuple[int, int]) -> Row:
    x = a_map(layout, batch, size)
    functions = {
        "four": partial(four_convolutions, block, x),
        "enl": partial(block, x),
        "padded": partial(block, x, own_extent(x)),
    }
    return timed_row(layout, batch, size, functions)


def training(block: ENLBlock, layout: str, batch: int, size: tuple[int, int]) -> Row:
    """Forward and backward, with gradients of the input and of all parameters."""
    x = a_map(layout, batch, size).requires_grad_()
    gradient = torch.ones_like(x)
    inner_gradient = torch.ones_like(x[:, : CHANNELS // 2])

    def convolutions() -> list[Tensor]:
        return [block.out(block.theta(x)), block.phi(x), block.g(x)]

    def step(forward: Callable[[], list[Tensor]]) -> None:
        x.grad = None
        block.zero_grad()
        outputs = forward()
        torch.autograd.backward(outputs, [gradient, inner_gradient, inner_gradient][: len(outputs)])

    functions = {
        "four": partial(step, convolutions),
        "enl": partial(step, lambda: [block(x)]),
        "padded": partial(step, lambda: [block(x, own_extent(x))]),
    }
    return timed_row(layout, batch, size, functions)


def timed_row(
    layout: str, batch: int, size: tuple[int, int], functions: dict[str, Callable]
) -> Row:
    times = harness.interleaved_times(functions, seconds=SECONDS)
    return {
        "layout": layout,
        "batch": batch,
        "size": size,
        "rounds": len(times["enl"]),
        "ms": milliseconds(times),
        "enl_to_four": ratio(times, "enl", "four"),
        "padded_to_enl": ratio(times, "padded", "enl"),
    }


def memory(block: ENLBlock, layout: str, batch: int, size: tuple[int, int]) -> Row:
    """In multiples of the input's bytes, which are the output's, too."""
    x = a_map(layout, batch, size)
    variable = x.clone().requires_grad_()
    known = [variable, *block.parameters()]
    with torch.no_grad():
        peaks = [
            harness.peak_bytes(partial(block, x, extent)) / x.nbytes - 1
            for extent in (None, own_extent(x))
        ]
    saved = [
        harness.saved_bytes(partial(block, variable, extent), known) / x.nbytes
        for extent in (None, own_extent(x))
    ]
    return {"layout": layout, "batch": batch, "size": size, "inference": peaks, "saved": saved}


@torch.no_grad()
def growth(block: ENLBlock, sizes: Sequence[tuple[int, int]]) -> list[Row]:
    """One image, more and more positions, beside the non-local block in its two forms."""
    non_local = harness.randomized(NonLocalBlock(CHANNELS))
    rows: list[Row] = []
    for size in sizes:
        x = harness.random_map(1, CHANNELS, size)
        functions = {
            "four": partial(four_convolutions, block, x),
            "enl": partial(block, x),
            "sdpa": partial(non_local, x),
            "explicit": partial(explicit_non_local, non_local, x),
        }
        positions = x[0, 0].numel()
        # Softmax needs a second matrix beside the affinity.
        if 2 * positions**2 * x.element_size() > LARGEST_AFFINITY:
            del functions["explicit"]
        if rows and expected_seconds(rows[-1], "sdpa", positions) > SLOWEST:
            del functions["sdpa"]
        times = harness.interleaved_times(functions, seconds=SECONDS)
        ratios = {name: ratio(times, name, "enl") for name in functions}
        rows.append({"size": size, "ms": milliseconds(times), "to_enl": ratios})
    return rows


def expected_seconds(row: Row, name: str, positions: int) -> float:
    """What a function whose cost grows with the square of the positions will need, from a row of
    fewer; without end if it was left out there already."""
    height, width = row["size"]
    return row["ms"].get(name, float("inf")) / 1e3 * (positions / (height * width)) ** 2


@torch.no_grad()
def bfloat16(block: ENLBlock, size: tuple[int, int]) -> Row:
    x = harness.random_map(1, CHANNELS, size)

    def autocast(function: Callable[[Tensor], Tensor]) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return function(x)

    functions = {
        "fp32": partial(block, x),
        "bfloat16": partial(autocast, block),
        "four_fp32": partial(four_convolutions, block, x),
        "four_bfloat16": partial(autocast, partial(four_convolutions, block)),
    }
    times = harness.interleaved_times(functions, seconds=SECONDS / 2)
    exact = functions["fp32"]()
    error = functions["bfloat16"]().float() - exact
    return {
        "size": size,
        "ms": milliseconds(times),
        "bfloat16_to_fp32": ratio(times, "bfloat16", "fp32"),
        "four_bfloat16_to_fp32": ratio(times, "four_bfloat16", "four_fp32"),
        "relative_error": (error.norm() / exact.norm()).item(),
    }


# ---------------------------------------------------------------------------- tables


def tables(results: dict[str, Any]) -> list[str]:
    return [
        harness.table("Inference", [time_columns(row) for row in results["inference"]]),
        harness.table(
            "Training: forward and backward", [time_columns(row) for row in results["training"]]
        ),
        harness.table(
            "Memory, in multiples of the input", [memory_columns(row) for row in results["memory"]]
        ),
        harness.table("Autocast to bfloat16", [bfloat16_columns(r) for r in results["bfloat16"]]),
        harness.table(
            "Growth, batch 1" + ", freed memory kept" * results["keeps_freed_memory"],
            [growth_columns(row) for row in results["growth"]],
        ),
    ]


def map_size(row: Row) -> str:
    height, width = row["size"]
    return f"{height}×{width}"


def time_columns(row: Row) -> Row:
    return {
        "threads": row["threads"],
        "layout": row["layout"],
        "batch": row["batch"],
        "map": map_size(row),
        "four convolutions ms": row["ms"]["four"],
        "ENL ms": row["ms"]["enl"],
        "ENL ÷ four": row["enl_to_four"],
        "with an extent ÷ without": row["padded_to_enl"],
        "rounds": row["rounds"],
    }


def memory_columns(row: Row) -> Row:
    return {
        "layout": row["layout"],
        "batch": row["batch"],
        "map": map_size(row),
        "inference, beyond input and output": row["inference"][0],
        "with an extent": row["inference"][1],
        "kept for backward, beyond input": row["saved"][0],
        "with an extent ": row["saved"][1],
    }


def growth_columns(row: Row) -> Row:
    return {
        "map": map_size(row),
        "four convolutions ms": row["ms"]["four"],
        "ENL ms": row["ms"]["enl"],
        "NL, SDPA ms": row["ms"].get("sdpa"),
        "NL, explicit ms": row["ms"].get("explicit"),
        "ENL ÷ four": 1 / row["to_enl"]["four"],
        "SDPA ÷ ENL": row["to_enl"].get("sdpa"),
        "explicit ÷ ENL": row["to_enl"].get("explicit"),
    }


def bfloat16_columns(row: Row) -> Row:
    return {
        "map": map_size(row),
        "ENL fp32 ms": row["ms"]["fp32"],
        "ENL bfloat16 ms": row["ms"]["bfloat16"],
        "ENL bfloat16 ÷ fp32": row["bfloat16_to_fp32"],
        "four convolutions bfloat16 ÷ fp32": row["four_bfloat16_to_fp32"],
        "relative error": row["relative_error"],
    }


if __name__ == "__main__":
    main()
