#!/usr/bin/env python
"""Recall and AP by the objects' size and by how often their class repeats in the image.

    python tools/analyze_errors.py --annotations val.json --output errors \\
        --results "baseline=output/rcnn/inference/coco_instances_results.json" \\
                  "ENL=output/enl_rcnn/inference/coco_instances_results.json"

Prints the tables, and for each model whether repetition helps it; writes errors.csv and errors.png.
"""

import argparse
from pathlib import Path

from enl_detectron2.analysis.command_line import by_name, named_path, require_new
from enl_detectron2.analysis.detections.errors import (
    analyze_errors,
    format_analyses,
    plot_analyses,
    write_csv,
)


def main() -> None:
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
    parser.add_argument("--output", required=True, help="folder to write to, new or empty")
    parser.add_argument(
        "--score-threshold",
        type=float,
        default=0.5,
        help="detections below don't count for recall; AP counts all (default: 0.5)",
    )
    args = parser.parse_args()
    folder = Path(args.output)
    try:
        results = by_name(args.results)
        require_new(folder)
        analyses = analyze_errors(args.annotations, results, score_threshold=args.score_threshold)
        folder.mkdir(parents=True, exist_ok=True)
        write_csv(analyses, folder / "errors.csv")
        plot_analyses(analyses, folder / "errors.png")
    except (ValueError, OSError) as error:
        parser.exit(2, f"{parser.prog}: error: {error}\n")
    print(format_analyses(analyses))


if __name__ == "__main__":
    main()
