"""Training curves of several runs in one plot.

    enl curves "baseline=output/rcnn_R50" "ENL=output/enl_rcnn_R50" \\
        --output curves.png
"""

from enl_detectron2.analysis.command_line import by_name, named_path, new_parser, require_new


def main() -> None:
    parser = new_parser(__doc__)
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
        metavar="KEY",
        help="keys of metrics.json, a panel each (default: the loss, the boxes' AP and small AP)",
    )
    args = parser.parse_args()
    runs = {name: path for name, (path,) in by_name(args.runs).items()}
    require_new(args.output)

    from enl_detectron2.analysis.curves import METRICS, plot_curves

    plot_curves(runs, args.output, metrics=args.metrics or METRICS)
