"""What two or three models find and miss on the same images, side by side with the ground truth.

    enl compare --annotations val.json --images val/ --output comparison \\
        --model baseline trained/nuclei_rcnn_lite0.yaml \\
        --model ENL trained/nuclei_enl_rcnn_lite0.yaml
    enl compare --annotations val.json --images val/ --output comparison \\
        --results "baseline=output/rcnn/inference/coco_instances_results.json" \\
                  "ENL=output/enl_rcnn/inference/coco_instances_results.json"

Writes a PNG for each image, and index.html, which shows first those on which the models differ
most. `enl evaluate` writes the results.
"""

import argparse
import sys

from enl_detectron2.analysis import command_line
from enl_detectron2.analysis.palette import SMALL_SIDE


def parse_args() -> argparse.Namespace:
    parser = command_line.new_parser(__doc__)
    command_line.add_models(parser)
    command_line.add_output_folder(parser)
    command_line.add_threshold(parser, "--score-threshold")
    parser.add_argument(
        "--small-side",
        type=command_line.number(float, 1),
        default=SMALL_SIDE,
        help=f"boxes below this side, the root of their area, are small (default: {SMALL_SIDE})",
    )
    parser.add_argument(
        "--num-images", type=command_line.number(int, 1), default=20, help="to draw (default: 20)"
    )
    args = parser.parse_args()
    if not args.images:
        parser.error("--images is needed")
    return args


def main() -> None:
    args = parse_args()

    from enl_detectron2.analysis.detections.comparison import compare_detections
    from enl_detectron2.analysis.detections.comparison_page import MOST_MODELS, write_comparison

    results = command_line.results_of(args, MOST_MODELS)
    comparisons = compare_detections(
        args.annotations,
        results,
        score_threshold=args.score_threshold,
        small_side=args.small_side,
    )
    left_out = write_comparison(
        comparisons,
        args.images,
        args.output,
        score_threshold=args.score_threshold,
        small_side=args.small_side,
        num_images=args.num_images,
    )
    print(f"Open {args.output}/index.html")
    if left_out:
        sys.exit("\n".join([f"{len(left_out)} image(s) left out:", *left_out]))
