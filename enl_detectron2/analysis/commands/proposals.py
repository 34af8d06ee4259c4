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

from enl_detectron2.analysis import command_line


def parse_args() -> argparse.Namespace:
    parser = command_line.new_parser(__doc__)
    command_line.add_models(parser, results=False)
    command_line.add_output_folder(parser)
    parser.add_argument(
        "--top",
        type=command_line.number(int, 1),
        default=100,
        help="how many proposals, the best, to draw from, at most 1000 (default: 100)",
    )
    command_line.add_sheets(parser)
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    command_line.require_new(args.output)

    from enl_detectron2.analysis.detections import proposals
    from enl_detectron2.analysis.detections.comparison import compare
    from enl_detectron2.analysis.detections.comparison_page import MOST_MODELS, write_comparison
    from enl_detectron2.analysis.detections.matching import load_truth

    models = command_line.by_name(args.model, MOST_MODELS)
    if args.top > max(proposals.LIMITS):
        raise ValueError(f"--top must be at most {max(proposals.LIMITS)}")
    truth = load_truth(args.annotations)
    findings, recalls = {}, {}
    for name, (config, *weights) in models.items():
        detector = command_line.load_model(config, *weights[:1])
        findings[name], recalls[name] = proposals.evaluate_proposals(
            truth,
            args.images,
            proposals.make_proposer(detector, name),
            shown=args.top,
            small_side=args.small_side,
            progress=name,
        )
    table = proposals.format_recall(recalls)
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
    )
    proposals.write_recall(recalls, args.output / "recall.csv")
    print(f"{table}\n\nOpen {args.output}/index.html")
    if left_out:
        sys.exit("\n".join([f"{len(left_out)} image(s) left out:", *left_out]))
