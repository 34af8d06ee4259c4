#!/usr/bin/env python
"""The region proposals of up to three models, side by side with the ground truth, and their recall.

    python tools/show_proposals.py --annotations val.json --images val/ --output proposals \\
        --model baseline configs/rcnn_R50.yaml baseline.pth \\
        --model ENL configs/enl_rcnn_R50.yaml enl.pth

Draws the small ones among the first proposals of each image, and which small objects they reach;
writes a PNG for each image, index.html, and recall.csv: the recall by size at 100, 300 and 1000
proposals.
"""

import argparse
from pathlib import Path

from enl_detectron2.analysis.command_line import require_new
from enl_detectron2.analysis.detections.comparison import MOST_MODELS, compare, write_comparison
from enl_detectron2.analysis.detections.matching import SMALL_SIDE, load_truth
from enl_detectron2.analysis.detections.proposals import (
    IOU_THRESHOLD,
    LIMITS,
    evaluate_proposals,
    format_recall,
    make_proposer,
    write_recall,
)
from enl_detectron2.analysis.detector import load_detector
from enl_detectron2.training.config import load_config


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--annotations", required=True, help="ground truth in COCO's format")
    parser.add_argument("--images", required=True, help="folder of its images")
    parser.add_argument(
        "--model",
        nargs=3,
        action="append",
        required=True,
        metavar=("NAME", "CONFIG", "WEIGHTS"),
        help="a .yaml or LazyConfig .py with its weights; up to three times",
    )
    parser.add_argument("--output", required=True, help="folder to write to, new or empty")
    parser.add_argument(
        "--top",
        type=int,
        default=100,
        help=f"how many proposals, the best, to draw from, at most {max(LIMITS)} (default: 100)",
    )
    parser.add_argument(
        "--small-side",
        type=float,
        default=SMALL_SIDE,
        help=f"boxes below this side, the root of their area, are small (default: {SMALL_SIDE})",
    )
    parser.add_argument("--num-images", type=int, default=20, help="to draw (default: 20)")
    args = parser.parse_args()
    if len(args.model) > MOST_MODELS:
        parser.error(f"at most {MOST_MODELS} models fit on a sheet")
    if len({name for name, _, _ in args.model}) < len(args.model):
        parser.error("two models have the same name")
    if not 1 <= args.top <= max(LIMITS):
        parser.error(f"--top must be from 1 to {max(LIMITS)}")

    findings, recalls = {}, {}
    try:
        require_new(args.output)
        truth = load_truth(args.annotations)
        for name, config, weights in args.model:
            is_lazy = config.endswith(".py")
            opts = [f"train.init_checkpoint={weights}"] if is_lazy else ["MODEL.WEIGHTS", weights]
            detector = load_detector(load_config(config, opts))
            findings[name], recalls[name] = evaluate_proposals(
                truth,
                args.images,
                make_proposer(detector, name),
                shown=args.top,
                small_side=args.small_side,
                progress=name,
            )
        table = format_recall(recalls)
        write_comparison(
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
                f"overlaps it at IoU {IOU_THRESHOLD} or more."
            ),
            table=table,
            num_images=args.num_images,
        )
        write_recall(recalls, Path(args.output) / "recall.csv")
    except (ValueError, OSError) as error:
        parser.exit(2, f"{parser.prog}: error: {error}\n")
    print(f"{table}\n\nOpen {args.output}/index.html")


if __name__ == "__main__":
    main()
