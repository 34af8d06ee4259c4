"""Parameters and multiply-adds of one or several configurations, side by side.

    enl cost configs/rcnn_R50.yaml configs/enl_rcnn_R50.yaml

Weights aren't loaded: the models are random.
"""

import argparse
import dataclasses
import itertools
import json
from pathlib import Path

from enl_detectron2.analysis.command_line import new_parser, require_new
from enl_detectron2.utils.imports import add_import_option

LARGEST = 16384  # pixels a side; the image is made


def is_config(argument: str) -> bool:
    return argument.endswith((".yaml", ".yml", ".py"))


def parse_args() -> argparse.Namespace:
    parser = new_parser(__doc__)
    parser.add_argument(
        "arguments",
        nargs="+",
        metavar="CONFIG … [KEY VALUE …]",
        help=".yaml or LazyConfig .py files; then overrides for all of them "
        "(key=value for LazyConfigs)",
    )
    parser.add_argument(
        "--size",
        nargs=2,
        type=int,
        default=[800, 1066],
        metavar=("HEIGHT", "WIDTH"),
        help="of the image, before padding (default: 800 1066)",
    )
    parser.add_argument(
        "--measure",
        action="store_true",
        help="also run each model to measure memory and time, on the configuration's device or, "
        "without a GPU, on the CPU",
    )
    parser.add_argument("--json", metavar="FILE", help="write all numbers to this file too")
    add_import_option(parser)
    args = parser.parse_args()
    args.configs = list(itertools.takewhile(is_config, args.arguments))
    args.opts = args.arguments[len(args.configs) :]
    if not args.configs:
        parser.error(f"{args.arguments[0]} is not a .yaml or .py file")
    if min(args.size) < 1 or max(args.size) > LARGEST:
        parser.error(f"--size must be from 1 1 to {LARGEST} {LARGEST}")
    return args


def main() -> None:
    args = parse_args()
    if args.json:
        require_new(args.json)

    from tqdm import tqdm

    from enl_detectron2.analysis.cost.report import analyze, format_costs

    size = tuple(args.size)
    with tqdm(args.configs, unit="model") as bar:
        costs = [analyze(config, args.opts, size, measured=args.measure) for config in bar]
    if args.json:
        Path(args.json).write_text(json.dumps([dataclasses.asdict(c) for c in costs], indent=2))
    print(format_costs(costs))
