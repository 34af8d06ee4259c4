"""What a point of an image attends to, and the position term's filters, as pictures.

    enl attention image --config-file CONFIG --input IMAGE --at X Y \\
        --output attention.png --opts MODEL.WEIGHTS model.pth
    enl attention explorer --config-file CONFIG --input IMAGE … --output FOLDER \\
        --opts MODEL.WEIGHTS model.pth
    enl attention filters --size 25 34 --size 100 136 --output filters.png
"""

import argparse
import logging
import sys
from pathlib import Path

from enl_detectron2.analysis import command_line

EXPLORER = """\
Writes a self-contained HTML page for each image that shows what any pixel attends to.

    enl attention explorer --config-file CONFIG --input IMAGE … --output FOLDER \\
        --opts MODEL.WEIGHTS model.pth

Open a page from disk in any browser. Images that can't be used are named and left out; the exit
status is then 1.
"""
MOST_CELLS = 4096  # a side of a map of position filters


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = command_line.new_parser(__doc__)
    commands = parser.add_subparsers(dest="command", required=True)

    image = commands.add_parser("image", help="one point of an image, in each relation block")
    image.add_argument("--input", required=True, help="image file")
    image.add_argument(
        "--at", nargs=2, type=float, metavar=("X", "Y"), help="pixel (default: the middle)"
    )
    image.add_argument("--block", nargs="+", help="names of blocks to show (default: all)")
    command_line.add_threshold(image)
    image.add_argument("--output", required=True, help="picture to write")
    command_line.add_config(image)

    page = commands.add_parser(
        "explorer",
        help="a page in the browser for each image: any point of it, in each block",
        description=EXPLORER,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    page.add_argument("--input", nargs="+", required=True, help="image files")
    command_line.add_output_folder(page)
    command_line.add_threshold(page)
    command_line.add_config(page)

    filters = commands.add_parser("filters", help="rows of the cosine position term Ê Êᵀ")
    filters.add_argument(
        "--size",
        nargs=2,
        type=int,
        action="append",
        metavar=("H", "W"),
        help="cells of a map; may be repeated (default: 25 34, 50 68)",
    )
    filters.add_argument(
        "--at",
        nargs=2,
        type=float,
        action="append",
        metavar=("X", "Y"),
        help="point of the map from 0 to 1; may be repeated (default: the middle, an edge's "
        "middle, near a corner)",
    )
    filters.add_argument("--num-frequencies", type=int, default=9, help="(default: 9)")
    filters.add_argument("--output", required=True, help="picture to write")

    args = parser.parse_args(arguments)
    if args.command == "filters" and not all(
        1 <= side <= MOST_CELLS for size in args.size or [] for side in size
    ):
        parser.error(f"--size must be from 1 1 to {MOST_CELLS} {MOST_CELLS}")
    return args


def show_image(args: argparse.Namespace) -> None:
    from enl_detectron2.analysis.attention.figures import draw_attention
    from enl_detectron2.analysis.attention.maps import capture_attention
    from enl_detectron2.analysis.detections.prediction import instances_above
    from enl_detectron2.analysis.detector import load_detector, naming
    from enl_detectron2.training.config import load_config

    detector = load_detector(load_config(args.config_file, args.opts))
    record = detector.read(args.input)
    with naming(args.input):
        output, attention = capture_attention(detector.model, record)
    blocks = args.block or list(attention)
    if unknown := [block for block in blocks if block not in attention]:
        raise ValueError(f"--block {unknown[0]}: the model's blocks are {', '.join(attention)}")
    image = detector.read_image(args.input, "RGB")
    height, width = image.shape[:2]
    found = instances_above(args.confidence_threshold, output)
    draw_attention(
        image,
        {block: attention[block] for block in blocks},
        args.at or (width / 2, height / 2),
        args.output,
        boxes=found.pred_boxes.tensor.numpy(),
    )


def show_explorer(args: argparse.Namespace) -> None:
    from enl_detectron2.analysis.attention.explorer import write_explorer
    from enl_detectron2.analysis.detector import load_detector
    from enl_detectron2.training.config import load_config

    logging.basicConfig(format="%(message)s")
    logging.getLogger("enl_detectron2").setLevel(logging.INFO)
    left_out = write_explorer(
        load_detector(load_config(args.config_file, args.opts)),
        args.input,
        args.output,
        score_threshold=args.confidence_threshold,
        caption=Path(args.config_file).stem,
    )
    if left_out:
        sys.exit(f"left out: {', '.join(left_out)}")


def show_filters(args: argparse.Namespace) -> None:
    from enl_detectron2.analysis.attention.figures import draw_position_filters
    from enl_detectron2.layers import CosPosition

    draw_position_filters(
        CosPosition(args.num_frequencies),
        args.size or [(25, 34), (50, 68)],
        args.at or [(0.5, 0.5), (0.5, 0.0), (0.1, 0.1)],
        args.output,
    )


def main(arguments: list[str] | None = None) -> None:
    args = parse_args(arguments)
    command_line.require_new(args.output)
    Path(args.output).parent.mkdir(parents=True, exist_ok=True)
    show = {"image": show_image, "explorer": show_explorer, "filters": show_filters}
    show[args.command](args)
