"""Detects objects on images, a video or a webcam, with a YAML or LazyConfig model.

    enl detect --config-file configs/enl_rcnn_R50.yaml --input photos/ "more/*.jpg" \\
        --output detections --opts MODEL.WEIGHTS enl.pth
    enl detect --config-file configs/lazy/enl_rcnn_R50.py --video-input film.mp4 \\
        --output film_detections.mp4 --opts train.init_checkpoint=enl.pth
    enl detect --config-file trained/nuclei_enl_rcnn_lite0.yaml --input cells/ \\
        --output nuclei

Runs on the configuration's device, or on the CPU where there is no GPU. Inputs that
can't be read are named and left out; the exit status is then 1.
"""

import argparse
import os
import sys
from typing import Any

from enl_detectron2.analysis import command_line


def parse_args() -> argparse.Namespace:
    parser = command_line.new_parser(__doc__)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--input", nargs="+", help="image files, folders of them, or 'patterns'")
    source.add_argument("--video-input", help="video file")
    source.add_argument("--webcam", action="store_true", help="the first camera, in a window")
    parser.add_argument(
        "--output",
        help="folder for the drawings of --input, file for that of --video-input; without it a "
        "window shows them (any key: next, Esc: end)",
    )
    command_line.add_threshold(parser)
    parser.add_argument(
        "--labels",
        choices=["auto", "all", "none"],
        default="auto",
        help="class and score beside objects; auto: where they hide no other (default: auto)",
    )
    command_line.add_tile(parser)
    command_line.add_config(parser)
    args = parser.parse_args()
    if args.webcam and args.output:
        parser.error("--webcam is shown in a window, it has no --output")
    return args


def main() -> None:
    args = parse_args()

    from detectron2.utils.logger import setup_logger

    from enl_detectron2.analysis.detections import batch, counts
    from enl_detectron2.analysis.detections.drawn import draw_instances
    from enl_detectron2.analysis.detections.prediction import predict
    from enl_detectron2.analysis.detections.video import draw_video
    from enl_detectron2.analysis.detector import load_detector
    from enl_detectron2.training.config import load_config
    from enl_detectron2.training.evaluation import Limit

    setup_logger(name="fvcore")  # which weights the checkpoint lacks, for one
    if args.input:  # what is wrong with them is said before the model is loaded
        images, errors, others = batch.find_images(args.input)
        if others:
            more = f" and {len(others) - 1} more" if len(others) > 1 else ""
            print(f"no images by their suffix: {others[0]}{more}", file=sys.stderr)
        targets = batch.new_files(images, args.output) if args.output else None
        if args.output:
            names = (counts.DETECTIONS, counts.COUNTS)
            command_line.require_new(*(os.path.join(args.output, name) for name in names))
        if not images:
            sys.exit("\n".join(["there is no image to look at:", *errors]))
    detector = load_detector(load_config(args.config_file, args.opts, args.tile))

    def draw(image: Any, name: str) -> tuple[Any, Any]:
        threshold = args.confidence_threshold
        found = predict(detector, image, score_threshold=threshold, name=name)
        return found, draw_instances(image, found, detector, args.labels)

    with Limit(detector.model, args.confidence_threshold) as limit:
        if not args.input:
            errors = draw_video(draw, 0 if args.webcam else args.video_input, args.output)
        else:
            results = counts.Counts(detector)
            if args.output:
                os.makedirs(args.output, exist_ok=True)
            try:
                errors += batch.draw_images(detector, images, targets, draw, done=results.add)
            finally:  # after Ctrl-C, too: what is drawn has its counts
                if args.output and results.photographs:
                    results.write(args.output)
            print(results.summary())
    if limit.files:
        print(f"warning: {limit.warning(detector.tile)}", file=sys.stderr)
    if errors:
        sys.exit("\n".join([f"{len(errors)} input(s) left out:", *errors]))
