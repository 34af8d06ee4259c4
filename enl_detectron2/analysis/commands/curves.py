"""Training curves of several runs in one plot.

    enl curves "baseline=output/rcnn_R50" "ENL=output/enl_rcnn_R50" \\
        --output curves.png
"""

import argparse

from enl_detectron2.analysis.command_line import by_name, named_path, require_new


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
