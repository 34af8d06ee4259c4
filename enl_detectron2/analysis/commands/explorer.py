"""Writes one self-contained HTML page an image, in which any pixel can be asked what it looks at.

    enl attention explorer --config-file CONFIG --input IMAGE … --output FOLDER \\
        --opts MODEL.WEIGHTS model.pth

Open a page from disk in any browser; with several images, index.html links them. Images that can't
be used are named and left out; the exit status is then 1.
"""

import argparse
import logging
import sys
from pathlib import Path

from enl_detectron2.analysis.command_line import load_named_config, require_new, score
from enl_detectron2.utils.imports import add_import_option


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--config-file",
        required=True,
        help=".yaml or LazyConfig .py, or a name of the model zoo that has trained weights",
    )
    parser.add_argument("--input", nargs="+", required=True, help="image files")
    parser.add_argument("--output", type=Path, required=True, help="folder, new or empty")
    parser.add_argument(
        "--confidence-threshold",
        type=score,
        default=0.5,
        help="detections below are left out, from 0 to 1 (default: 0.5)",
    )
    parser.add_argument(
        "--opts", nargs=argparse.REMAINDER, default=[], help="overrides of the configuration"
    )
    add_import_option(parser)
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    require_new(args.output)

    from enl_detectron2.analysis.attention.explorer import write_explorer
    from enl_detectron2.analysis.detector import load_detector

    logging.basicConfig(format="%(message)s")
    logging.getLogger("enl_detectron2").setLevel(logging.INFO)
    left_out = write_explorer(
        load_detector(load_named_config(args.config_file, args.opts)),
        args.input,
        args.output,
        score_threshold=args.confidence_threshold,
        caption=Path(args.config_file).stem,
    )
    if left_out:
        sys.exit(f"left out: {', '.join(left_out)}")
