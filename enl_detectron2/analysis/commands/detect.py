"""Detects objects on images, a video or a webcam, with a YAML or LazyConfig model.

    enl detect --config-file configs/enl_rcnn_R50.yaml --input photos/ "more/*.jpg" \\
        --output detections --opts MODEL.WEIGHTS enl.pth
    enl detect --config-file configs/lazy/enl_rcnn_R50.py --video-input film.mp4 \\
        --output film_detections.mp4 --opts train.init_checkpoint=enl.pth
    enl detect --config-file trained/nuclei_enl_rcnn_lite0.yaml --input cells/ \\
        --output nuclei

Runs on the configuration's device, or on the CPU if that is a GPU and there is none. Inputs that
can't be read are named and left out; the exit status is then 1.
"""

import argparse
import os
import sys

from enl_detectron2.analysis.command_line import load_named_config, score
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
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--input", nargs="+", help="image files, folders of them, or 'patterns'")
    source.add_argument("--video-input", help="video file")
    source.add_argument("--webcam", action="store_true", help="the first camera, in a window")
    parser.add_argument(
        "--output",
        help="folder for the drawings of --input, file for that of --video-input; without it a "
        "window shows them (any key: next, Esc: end)",
    )
    parser.add_argument(
        "--confidence-threshold",
        type=score,
        default=0.5,
        help="detections below are left out, from 0 to 1 (default: 0.5)",
    )
    parser.add_argument(
        "--labels",
        choices=["auto", "all", "none"],
        default="auto",
        help="class and score beside objects; auto: where they hide no other (default: auto)",
    )
    parser.add_argument(
        "--tile",
        type=int,
        metavar="PIXELS",
        help="for very large images: detect on square tiles of this side, which overlap by a "
        "quarter; objects larger than the overlap may be cut; boxes only, no masks",
    )
    parser.add_argument(
        "--opts",
        nargs=argparse.REMAINDER,
        default=[],
        help="overrides of the configuration: KEY VALUE … for .yaml, key=value … for .py",
    )
    add_import_option(parser)
    args = parser.parse_args()
    if args.tile is not None and args.tile < 4:
        parser.error("--tile must be at least 4")
    if args.webcam and args.output:
        parser.error("--webcam is shown in a window, it has no --output")
    return args


def main() -> None:
    args = parse_args()

    from detectron2.utils.logger import setup_logger

    from enl_detectron2.analysis.command_line import require_new
    from enl_detectron2.analysis.detections import batch, counts
    from enl_detectron2.analysis.detector import load_detector

    setup_logger(name="fvcore")  # which weights the checkpoint lacks, for one
    if args.input:  # what is wrong with them is said before the model is loaded
        images, errors = batch.find_images(args.input)
        targets = batch.new_files(images, args.output) if args.output else None
        if args.output:
            results = (counts.DETECTIONS, counts.COUNTS)
            require_new(*(os.path.join(args.output, name) for name in results))
        if not images:
            sys.exit("\n".join(["there is no image to look at:", *errors]))
    detector = load_detector(load_named_config(args.config_file, args.opts))
    draw = batch.Drawer(detector, args.confidence_threshold, args.tile, args.labels)
    if not args.input:
        errors = batch.draw_video(draw, 0 if args.webcam else args.video_input, args.output)
    else:
        found, full = counts.Counts(detector), []

        def done(file: str) -> None:
            found.add(file, draw.found)
            if draw.is_full:
                full.append(file)

        if args.output:
            os.makedirs(args.output, exist_ok=True)
        large = bool(args.tile)
        errors += batch.draw_images(detector, images, targets, draw, large=large, done=done)
        if args.output:
            found.write(args.output)
        print(found.summary())
        if full:
            limit = batch.most_detections(detector.model)
            more = f" and {len(full) - 1} more" if full[1:] else ""
            print(
                f"warning: {full[0]}{more} gave {limit} detections, as many as the limit allows, "
                "so there may be more objects: raise it by --opts TEST.DETECTIONS_PER_IMAGE "
                "NUMBER, or use --tile PIXELS",
                file=sys.stderr,
            )
    if errors:
        sys.exit("\n".join([f"{len(errors)} input(s) left out:", *errors]))
