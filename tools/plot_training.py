#!/usr/bin/env python
"""Training curves of several runs in one plot.

    python tools/plot_training.py "baseline=output/rcnn_R50" "ENL=output/enl_rcnn_R50" \\
        --output curves.png
"""

import signal

signal.signal(signal.SIGINT, signal.SIG_DFL)  # quiet until run() says it: imports take seconds

import argparse

from enl_detectron2.analysis.command_line import by_name, named_path, require_new
from enl_detectron2.utils.command_line import run


def main() -> None:
    from enl_detectron2.analysis.curves import METRICS, plot_curves

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "runs",
        nargs="+",
        type=named_path,
        metavar="NAME=RUN",
        help="a run's output folder, or its metrics.json",
    )
    parser.add_argument("--output", required=True, help="picture to write")
    parser.add_argument(
        "--metrics",
        nargs="+",
        default=METRICS,
        metavar="KEY",
        help=f"keys of metrics.json, a panel each (default: {' '.join(METRICS)})",
    )
    args = parser.parse_args()
    runs = by_name(args.runs)
    require_new(args.output)
    plot_curves(runs, args.output, metrics=args.metrics)


if __name__ == "__main__":
    run(main)
