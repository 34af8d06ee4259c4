"""Recall and AP by the objects' size and by how often their class repeats in the image.

    enl errors --annotations val.json --output errors \\
        --results "baseline=output/rcnn/inference/coco_instances_results.json" \\
                  "ENL=output/enl_rcnn/inference/coco_instances_results.json"

Prints the tables, and for each model whether repetition helps it; writes errors.csv and errors.png.
"""

import argparse
from pathlib import Path

from enl_detectron2.analysis.command_line import by_name, named_path, require_new, score


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--annotations", required=True, help="ground truth in COCO's format")
    parser.add_argument(
        "--results",
        nargs="+",
        type=named_path,
        required=True,
        metavar="NAME=FILE",
        help="coco_instances_results.json of each model",
    )
    parser.add_argument("--output", required=True, type=Path, help="folder, new or empty")
    parser.add_argument(
        "--score-threshold",
        type=score,
        default=0.5,
        help="detections below don't count for recall; AP counts all (default: 0.5)",
    )
    return parser.parse_args()


def main() -> None:
    args = parse_args()

    from enl_detectron2.analysis.detections import errors_report
    from enl_detectron2.analysis.detections.errors import analyze_errors

    results = by_name(args.results)
    require_new(args.output)
    analyses = analyze_errors(args.annotations, results, score_threshold=args.score_threshold)
    print(errors_report.format_analyses(analyses))
    args.output.mkdir(parents=True, exist_ok=True)
    errors_report.write_csv(analyses, args.output / "errors.csv")
    errors_report.plot_analyses(analyses, args.output / "errors.png")
