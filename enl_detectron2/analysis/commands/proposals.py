"""The region proposals of up to three models, side by side with the ground truth, and their recall.

    enl proposals --annotations val.json --images val/ --output proposals \\
        --model baseline configs/rcnn_R50.yaml baseline.pth \\
        --model ENL configs/enl_rcnn_R50.yaml enl.pth

Draws the small ones among the first proposals of each image, and which small objects they reach;
writes a PNG for each image, index.html, and recall.csv: the recall by size at 100, 300 and 1000
proposals.
"""

import argparse
import sys
from pathlib import Path

from enl_detectron2.analysis.command_line import count, folder, length, require_new
from enl_detectron2.utils.imports import add_import_option


def parse_args() -> argparse.Namespace:
    from enl_detectron2.analysis.detections.comparison_page import MOST_MODELS
    from enl_detectron2.analysis.detections.matching import SMALL_SIDE
    from enl_detectron2.analysis.detections.proposals import LIMITS

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--annotations", required=True, help="ground truth in COCO's format")
    parser.add_argument("--images", required=True, type=folder, help="folder of its images")
    parser.add_argument(
        "--model",
        nargs=3,
        action="append",
        required=True,
        metavar=("NAME", "CONFIG", "WEIGHTS"),
        help="a .yaml or LazyConfig .py with its weights; up to three times",
    )
    parser.add_argument("--output", required=True, type=Path, help="folder, new or empty")
    parser.add_argument(
        "--top",
        type=int,
        default=100,
        help=f"how many proposals, the best, to draw from, at most {max(LIMITS)} (default: 100)",
    )
    parser.add_argument(
        "--small-side",
        type=length,
        default=SMALL_SIDE,
        help=f"boxes below this side, the root of their area, are small (default: {SMALL_SIDE})",
    )
    parser.add_argument("--num-images", type=count, default=20, help="to draw (default: 20)")
    add_import_option(parser)
    args = parser.parse_args()
    if len(args.model) > MOST_MODELS:
        parser.error(f"at most {MOST_MODELS} models fit on a sheet")
    if len({name for name, _, _ in args.model}) < len(args.model):
        parser.error("two models have the same name")
    if not 1 <= args.top <= max(LIMITS):
        parser.error(f"--top must be from 1 to {max(LIMITS)}")

    return args


def main() -> None:
    args = parse_args()
    require_new(args.output)

    from enl_detectron2.analysis.detections import proposals
    from enl_detectron2.analysis.detections.comparison import compare
    from enl_detectron2.analysis.detections.comparison_page import write_comparison
    from enl_detectron2.analysis.detections.matching import load_truth
    from enl_detectron2.analysis.detector import load_detector
    from enl_detectron2.training.config import load_config

    truth = load_truth(args.annotations)
    findings, recalls = {}, {}
    for name, config, weights in args.model:
        is_lazy = config.endswith(".py")
        opts = [f"train.init_checkpoint={weights}"] if is_lazy else ["MODEL.WEIGHTS", weights]
        detector = load_detector(load_config(config, opts))
        findings[name], recalls[name] = proposals.evaluate_proposals(
            truth,
            args.images,
            proposals.make_proposer(detector, name),
            shown=args.top,
            small_side=args.small_side,
            progress=name,
        )
    table = proposals.format_recall(recalls)
    print(table)
    left_out = write_comparison(
        compare(truth, findings, args.small_side),
        args.images,
        args.output,
        title="Proposals of small objects: " + ", ".join(findings),
        legend=(
            f"thin: those of the first {args.top} proposals with a side below "
            f"{args.small_side:g} px; blue: reached; dashed blue: missed"
        ),
        explanation=(
            f"Small is what has a side (the root of its box's area) below {args.small_side:g} "
            f"pixels. A small object is found if one of the first {args.top} proposals "
            f"overlaps it at IoU {proposals.IOU_THRESHOLD} or more."
        ),
        table=table,
        num_images=args.num_images,
        deep_images=detector.deep_images,
    )
    proposals.write_recall(recalls, args.output / "recall.csv")
    print(f"\nOpen {args.output}/index.html")
    if left_out:
        sys.exit("\n".join([f"{len(left_out)} image(s) left out:", *left_out]))
