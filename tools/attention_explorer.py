#!/usr/bin/env python
"""Writes one self-contained HTML page an image, in which any pixel can be asked what it looks at.

    python tools/attention_explorer.py --config-file CONFIG --input IMAGE … --output FOLDER \\
        --opts MODEL.WEIGHTS model.pth

Open a page from disk in any browser; with several images, index.html links them.
"""

import argparse
import logging
import os
from pathlib import Path

from enl_detectron2.analysis.attention.explorer import write_explorer
from enl_detectron2.analysis.detector import load_detector
from enl_detectron2.training.config import load_config


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", required=True, help=".yaml or LazyConfig .py")
    parser.add_argument("--input", nargs="+", required=True, help="image files")
    parser.add_argument("--output", type=Path, required=True, help="folder for the pages")
    parser.add_argument(
        "--confidence-threshold",
        type=float,
        default=0.5,
        help="detections below are left out (default: 0.5)",
    )
    parser.add_argument(
        "--opts", nargs=argparse.REMAINDER, default=[], help="overrides of the configuration"
    )
    args = parser.parse_args()
    if not os.path.isfile(args.config_file):
        parser.error(f"there is no file {args.config_file}")
    if args.output.exists() and (not args.output.is_dir() or any(args.output.iterdir())):
        parser.error(f"{args.output} is there already: choose another name, or delete it")
    return args


def main() -> None:
    args = parse_args()
    logging.basicConfig(format="%(message)s")
    logging.getLogger("enl_detectron2").setLevel(logging.INFO)
    try:
        unreadable = write_explorer(
            load_detector(load_config(args.config_file, args.opts)),
            args.input,
            args.output,
            score_threshold=args.confidence_threshold,
            caption=Path(args.config_file).stem,
        )
    except ValueError as error:
        raise SystemExit(f"attention_explorer.py: {error}") from error
    if unreadable:
        raise SystemExit(f"attention_explorer.py: could not read {', '.join(unreadable)}")


if __name__ == "__main__":
    main()
