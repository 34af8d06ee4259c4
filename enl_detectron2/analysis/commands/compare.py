"""What two or three models find and miss on the same images, side by side with the ground truth.

    enl compare --annotations val.json --images val/ --output comparison \\
        --results "baseline=output/rcnn/inference/coco_instances_results.json" \\
                  "ENL=output/enl_rcnn/inference/coco_instances_results.json"

Writes a PNG for each image, and index.html, which shows them all: those first on which the models
differ most. `train_net.py --eval-only` writes the results.
"""

import argparse
import sys

from enl_detectron2.analysis.command_line import (
    by_name,
    count,
    folder,
    length,
    named_path,
    require_new,
    score,
)


def parse_args() -> argparse.Namespace:
    from enl_detectron2.analysis.detections.matching import SMALL_SIDE
    from enl_detectron2.training.data.images import DEEP_IMAGES

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--annotations", required=True, help="ground truth in COCO's format")
    parser.add_argument("--images", required=True, type=folder, help="folder of its images")
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
        type=score,
        default=0.5,
        help="detections below are left out, for all models (default: 0.5)",
    )
    parser.add_argument(
        "--small-side",
        type=length,
        default=SMALL_SIDE,
        help=f"boxes below this side, the root of their area, are small (default: {SMALL_SIDE})",
    )
    parser.add_argument("--num-images", type=count, default=20, help="to draw (default: 20)")
    parser.add_argument(
        "--deep-images",
        choices=DEEP_IMAGES,
        default="refuse",
        help="what to do with images of more than 8 bits a channel (default: refuse)",
    )
    return parser.parse_args()


def main() -> None:
    args = parse_args()

    from enl_detectron2.analysis.detections.comparison import compare_detections
    from enl_detectron2.analysis.detections.comparison_page import MOST_MODELS, write_comparison

    results = by_name(args.results, MOST_MODELS)
    require_new(args.output)
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
        title="Small objects: " + ", ".join(results),
        legend=(
            "strong box: found; dashed: missed; crossed: false; "
            f"thin: side of {args.small_side:g} px or more"
        ),
        explanation=(
            f"Detections of score {args.score_threshold:g} or more; right are those that match "
            "an object of their class at IoU 0.5. Small is what has a side (the root of its "
            f"box's area) below {args.small_side:g} pixels."
        ),
        num_images=args.num_images,
        deep_images=args.deep_images,
    )
    print(f"Open {args.output}/index.html")
    if left_out:
        sys.exit("\n".join([f"{len(left_out)} image(s) left out:", *left_out]))
