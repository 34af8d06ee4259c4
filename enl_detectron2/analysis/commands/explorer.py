"""Writes a self-contained HTML page for each image that shows what any pixel attends to.

    enl attention explorer --config-file CONFIG --input IMAGE … --output FOLDER \\
        --opts MODEL.WEIGHTS model.pth

Open a page from disk in any browser; with several images, index.html links them. Images that can't
be used are named and left out; the exit status is then 1.
"""

import argparse
import logging
import sys
from pathlib import Path

from enl_detectron2.analysis import command_line


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--input", nargs="+", required=True, help="image files")
    command_line.add_output_folder(parser)
    command_line.add_threshold(parser)
    command_line.add_config(parser)


def main() -> None:
    parser = command_line.new_parser(__doc__)
    add_arguments(parser)
    show(parser.parse_args())


def show(args: argparse.Namespace) -> None:
    command_line.require_new(args.output)

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
