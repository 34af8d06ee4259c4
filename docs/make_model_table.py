#!/usr/bin/env python
"""Writes the table of systems into projects_readme.md, between its two markers.

What the papers report comes from papers_results.yaml, beside this file. Parameters and
multiply-adds are counted here, of the very configurations that the table links to. What this code
reaches comes from the result lines of experiments/.
"""

import sys
from pathlib import Path

import yaml
from tqdm import tqdm

from enl_detectron2.analysis.cost.multiply_adds import count_multiply_adds
from enl_detectron2.analysis.cost.random_model import build_random_model
from enl_detectron2.analysis.cost.report import count_parameters
from enl_detectron2.training.config import load_config

ROOT = Path(__file__).resolve().parents[1]
EXPERIMENTS = ROOT / "experiments"
GRIDS = ("coco_faster", "coco_mask", "coco_600px", "coco_others")
PAGE = ROOT / "projects_readme.md"
MARKERS = "<!-- systems: written by docs/make_model_table.py -->\n", "<!-- systems end -->"

COLUMNS = (
    "configuration",
    "system",
    "papers' table",
    "papers' box AP / APs / APm / APl",
    "papers' mask AP / APs",
    "parameters, M",
    "multiply-adds, G",
)
OURS = "AP with this code"  # a column as soon as one of them is trained


def measured() -> dict[str, str]:
    """What this code reaches, by configuration, for those that are trained."""
    sys.path.insert(0, str(EXPERIMENTS))  # where the runner of experiments/ is imported from
    from runner.grid import load_grid
    from runner.report import measured_ap

    found = {}
    for name in GRIDS:
        found |= measured_ap(load_grid(EXPERIMENTS / f"{name}.yaml"))
    return found


def row(config: str, papers: dict) -> list[str]:
    """The cells of one configuration; its costs are of one image of its own test size."""
    cfg = load_config(str(ROOT / f"configs/{config}.yaml"), [])
    model = build_random_model(cfg, "cpu")
    # Of 4:3, as COCO's images mostly are.
    height = cfg.INPUT.MIN_SIZE_TEST
    multiply_adds = sum(count_multiply_adds(model, (height, round(height * 4 / 3))).values())
    return [
        f"[{config}](configs/{config}.yaml)",
        papers["system"],
        papers["from"],
        " / ".join(f"{ap:.2f}" for ap in papers["box"]) or "–",
        " / ".join(f"{ap:.2f}" for ap in papers.get("mask", [])) or "–",
        f"{count_parameters(model, trainable=True) / 1e6:.2f}",
        f"{multiply_adds / 1e9:.1f}",
    ]


def main() -> None:
    papers = yaml.safe_load((ROOT / "docs/papers_results.yaml").read_text())
    ours = measured()
    rows = [row(config, results) for config, results in tqdm(papers.items())]
    lines = [list(COLUMNS), ["---"] * len(COLUMNS), *rows]
    if ours:
        last = [OURS, "---", *(ours.get(config, "not yet trained") for config in papers)]
        lines = [[*line, cell] for line, cell in zip(lines, last)]
    table = "".join("| " + " | ".join(line) + " |\n" for line in lines)
    page = PAGE.read_text()
    start, end = (page.index(marker) for marker in MARKERS)
    PAGE.write_text(page[:start] + MARKERS[0] + table + page[end:])


if __name__ == "__main__":
    main()
