#!/usr/bin/env python
"""Time and memory of the ENL block, compared with its own four 1×1 convolutions.

    python benchmarks/block.py
    python benchmarks/block.py --device cuda

The reference is what no implementation can avoid: the time of theta, phi, g and out on the same
input in the same memory format, in the same run. Takes some 5 minutes on two idle cores;
results/block.md and, of a GPU, block_cuda.md say what came out.
"""

import argparse
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
BATCHES = {"cpu": (1, 2), "cuda": (1, 8)}
SIZES = ((50, 68), (100, 136), (200, 272))  # strides 16 to 4 of an 800×1088 image
LAYOUTS = {"contiguous": torch.contiguous_format, "channels last": torch.channels_last}
THREADS = (1, 2)
GROWTH_SIZES = ((25, 34), *SIZES, (400, 544))
PRECISIONS = ("float32", "TF32", "float16")  # of a GPU
SECONDS = {"cpu": 3, "cuda": 0.4}  # for the rounds of one line of a table
SLOWEST = 60  # seconds of one call; slower ones are left out
LARGEST_AFFINITY = 8e9  # bytes of one call; larger ones are left out

Row = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description="Measures the ENL block.")
    parser.add_argument("--device", choices=sorted(SECONDS), default="cpu")
    device = parser.parse_args().device
    block = harness.randomized(ENLBlock(CHANNELS)).to(device)
    results = {"machine": harness.machine(device), "channels": CHANNELS}
    for kind, measure in (("inference", inference), ("training", training)):
        results[kind] = [
            timed_row(block, measure, setting, layout, batch, size)
            for setting, layout, size, batch in itertools.product(
                settings(device), LAYOUTS, SIZES, BATCHES[device]
            )
        ]
    results["memory"] = [
        memory(block, layout, 1, size) for layout, size in itertools.product(LAYOUTS, SIZES)
    ]
    results["keeps_freed_memory"] = False
    if device == "cpu":
        results["bfloat16"] = [bfloat16(block, size) for size in SIZES[:2]]
        # Last, as it holds for the rest of the process.
        results["keeps_freed_memory"] = harness.keep_freed_memory()
    results["growth"] = growth(block, GROWTH_SIZES)
    name = "block" if device == "cpu" else f"block_{device}"
    harness.write_results(name, results, tables(results))


def settings(device: str) -> list[Row]:
    """What the lines of the first tables are taken with: threads, or a GPU's precision."""
    if device == "cpu":
        return [{"threads": threads} for threads in THREADS]
    return [{"precision": precision} for precision in PRECISIONS]


# ---------------------------------------------------------------------------- what is compared


def device_of(block: ENLBlock) -> torch.device:
    return block.theta.weight.device


def a_map(block: ENLBlock, layout: str, batch: int, size: tuple[int, int]) -> Tensor:
    x = harness.random_map(batch, CHANNELS, size).to(memory_format=LAYOUTS[layout])
    return x.to(device_of(block))


def own_extent(x: Tensor) -> Tensor:
    """An image's own part of a map: all but the last fortieth of its width, as of 800×1066."""
    height, width = x.shape[2:]
    own = [[height, width - max(width // 40, 1)]] * len(x)
    return torch.tensor(own, device=x.device)


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


def inference(block: ENLBlock, x: Tensor, call: Callable) -> dict[str, Callable]:
    own = own_extent(x)

    @torch.no_grad()
    def infer(function: Callable, *arguments: Tensor) -> Tensor:
        return call(function, *arguments)

    functions = {
        "four": partial(infer, four_convolutions, block, x),
        "enl": partial(infer, block, x),
        "padded": partial(infer, block, x, own),
    }
    if not x.is_cuda:
        return functions
    graphs = {f"{name}_graph": harness.captured(each) for name, each in functions.items()}
    return functions | graphs


def training(block: ENLBlock, x: Tensor, call: Callable) -> dict[str, Callable]:
    """Forward and backward, with gradients of the input and of all parameters."""
    x.requires_grad_()
    own = own_extent(x)
    gradient = torch.ones_like(x)
    inner_gradient = torch.ones_like(x[:, : CHANNELS // 2])

    def convolutions() -> list[Tensor]:
        return [block.out(block.theta(x)), block.phi(x), block.g(x)]

    def step(forward: Callable[[], list[Tensor]]) -> None:
        x.grad = None
        block.zero_grad()
        outputs = call(forward)
        gradients = [gradient, inner_gradient, inner_gradient]
        torch.autograd.backward(
            outputs, [each.to(output.dtype) for each, output in zip(gradients, outputs)]
        )

    return {
        "four": partial(step, convolutions),
        "enl": partial(step, lambda: [block(x)]),
        "padded": partial(step, lambda: [block(x, own)]),
    }


def timed_row(
    block: ENLBlock, measure: Callable, setting: Row, layout: str, batch: int, size: tuple[int, int]
) -> Row:
    device = device_of(block)
    if threads := setting.get("threads"):
        torch.set_num_threads(threads)

    def call(function: Callable, *arguments: Tensor) -> Any:
        if precision := setting.get("precision"):
            with harness.precision(precision, device):
                return function(*arguments)
        return function(*arguments)

    functions = measure(block, a_map(block, layout, batch, size), call)
    # The backward pass asks for the precision when it runs.
    with harness.precision("TF32" if setting.get("precision") == "TF32" else "float32", device):
        times = harness.interleaved_times(functions, seconds=SECONDS[device.type], device=device)
    row = setting | {
        "layout": layout,
        "batch": batch,
        "size": size,
        "rounds": len(times["enl"]),
        "ms": milliseconds(times),
        "enl_to_four": ratio(times, "enl", "four"),
        "padded_to_enl": ratio(times, "padded", "enl"),
    }
    if "enl_graph" in times:
        row["graph_enl_to_four"] = ratio(times, "enl_graph", "four_graph")
    print(measure.__name__, row, flush=True)
    return row


def memory(block: ENLBlock, layout: str, batch: int, size: tuple[int, int]) -> Row:
    """In multiples of the input's bytes, which are the output's, too."""
    x = a_map(block, layout, batch, size)
    variable = x.clone().requires_grad_()
    known = [variable, *block.parameters()]
    with torch.no_grad():
        peaks = [
            harness.peak_bytes(partial(block, x, extent), x.device) / x.nbytes - 1
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
    device = device_of(block)
    non_local = harness.randomized(NonLocalBlock(CHANNELS)).to(device)
    rows: list[Row] = []
    for size in sizes:
        x = a_map(block, "contiguous", 1, size)
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
        times = harness.interleaved_times(functions, seconds=SECONDS[device.type], device=device)
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
    times = harness.interleaved_times(functions, seconds=SECONDS["cpu"] / 2)
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
    found = [
        harness.table("Inference", [time_columns(row) for row in results["inference"]]),
        harness.table(
            "Training: forward and backward", [time_columns(row) for row in results["training"]]
        ),
        harness.table(
            "Memory, in multiples of the input", [memory_columns(row) for row in results["memory"]]
        ),
        harness.table(
            "Growth, batch 1" + ", freed memory kept" * results["keeps_freed_memory"],
            [growth_columns(row) for row in results["growth"]],
        ),
    ]
    if "bfloat16" in results:
        rows = [bfloat16_columns(row) for row in results["bfloat16"]]
        found.append(harness.table("Autocast to bfloat16", rows))
    return found


def map_size(row: Row) -> str:
    height, width = row["size"]
    return f"{height}×{width}"


def time_columns(row: Row) -> Row:
    setting = {key: row[key] for key in ("threads", "precision") if key in row}
    return setting | {
        "layout": row["layout"],
        "batch": row["batch"],
        "map": map_size(row),
        "four convolutions ms": row["ms"]["four"],
        "ENL ms": row["ms"]["enl"],
        "ENL ÷ four": row["enl_to_four"],
        "with an extent ÷ without": row["padded_to_enl"],
        **graph_columns(row),
        "rounds": row["rounds"],
    }


def graph_columns(row: Row) -> Row:
    """Of a GPU's inference: the same as CUDA graphs."""
    if "graph_enl_to_four" not in row:
        return {}
    return {
        "four, graph ms": row["ms"]["four_graph"],
        "ENL, graph ms": row["ms"]["enl_graph"],
        "ENL ÷ four, graph": row["graph_enl_to_four"],
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
