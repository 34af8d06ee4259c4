#!/usr/bin/env python
"""Draws docs/growth.png from results/block.json: time over the number of positions.

python benchmarks/plot_growth.py
"""

import argparse
import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from harness import RESULTS
from matplotlib.ticker import FuncFormatter, NullLocator

PICTURE = Path(__file__).parents[1] / "docs" / "growth.png"

# Okabe and Ito's colours, as in docs/enl.png; each line has a marker of its own besides.
LINES = {
    "explicit": ("non-local, N×N matrix", "#D55E00", "^"),
    "sdpa": ("non-local, fused attention", "#E69F00", "s"),
    "enl": ("ENL", "#0072B2", "o"),
    "four": ("its four 1×1 convolutions", "#666666", "D"),
}


def main() -> None:
    results = json.loads((RESULTS / "block.json").read_text())
    draw(results["growth"], results["machine"]).savefig(PICTURE)


def draw(rows: list[dict], machine: dict) -> plt.Figure:
    figure, axes = plt.subplots(figsize=(8, 5), dpi=200, layout="constrained")
    positions = [row["size"][0] * row["size"][1] for row in rows]
    for name, (label, colour, marker) in LINES.items():
        points = [(n, row["ms"][name]) for n, row in zip(positions, rows) if name in row["ms"]]
        style = "--" if name == "four" else "-"
        axes.plot(*zip(*points), style, color=colour, marker=marker, ms=7, lw=2.2, label=label)
    axes.set(xscale="log", yscale="log", xlabel="map, H×W", ylabel="time, ms")
    axes.set_xticks(positions, ["{}×{}".format(*row["size"]) for row in rows])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    axes.grid(color="#DDDDDD", lw=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=11)
    axes.set_title(
        f"One image of 256 channels, fp32, {machine['cpu']}, {machine['threads']} threads",
        loc="left",
        fontsize=11,
    )
    return figure


if __name__ == "__main__":
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    main()
