#!/usr/bin/env python
"""Detects objects on images, a video or a webcam, with a YAML or LazyConfig model.

    python demo/demo.py --config-file configs/enl_rcnn_R50.yaml --input photos/ "more/*.jpg" \\
        --output detections --opts MODEL.WEIGHTS enl.pth
    python demo/demo.py --config-file configs/lazy/enl_rcnn_R50.py --video-input film.mp4 \\
        --output film_detections.mp4 --opts train.init_checkpoint=enl.pth

Runs on the configuration's device, or on the CPU if that is a GPU and there is none. Inputs that
can't be read are named and left out; the exit status is then 1.
"""

import argparse
import glob
import os
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from detectron2.data.detection_utils import read_image
from detectron2.utils.logger import setup_logger
from PIL import Image
from tqdm import tqdm

from enl_detectron2.analysis.command_line import require_new
from enl_detectron2.analysis.detections.prediction import draw_instances, predict, predict_tiled
from enl_detectron2.analysis.detector import load_detector
from enl_detectron2.training.config import load_config

WINDOW = "detections"
ESCAPE = 27  # the key that closes the window


class InputError(Exception):
    """One input can't be used; the others can."""


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", required=True, help=".yaml or LazyConfig .py")
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
        type=float,
        default=0.5,
        help="detections below are left out (default: 0.5)",
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
    args = parser.parse_args()
    if not os.path.isfile(args.config_file):
        parser.error(f"there is no file {args.config_file}")
    if args.tile is not None and args.tile < 4:
        parser.error("--tile must be at least 4")
    if args.webcam and args.output:
        parser.error("--webcam is shown in a window, it has no --output")
    return args


def find_images(inputs: list[str]) -> tuple[list[str], list[str]]:
    """The image files that the words of --input mean, and a sentence for each that means none."""
    suffixes = tuple(Image.registered_extensions())
    files, errors = [], []
    for word in inputs:
        if os.path.isdir(word):
            found = sorted(str(p) for p in Path(word).iterdir() if p.suffix.lower() in suffixes)
            reason = "is a folder without images"
        else:
            found = [word] if os.path.exists(word) else sorted(glob.glob(word))
            reason = "is no file or folder, and no file fits it as a pattern"
        files += [file for file in found if file not in files]
        errors += [] if found else [f"{word} {reason}"]
    return files, errors


def read(path: str) -> np.ndarray:
    try:
        return read_image(path, format="BGR")
    except Exception as error:  # what Pillow raises for a broken file depends on its format
        raise InputError(f"{path} can't be read as an image: {error}") from error


class Window:
    """Shows drawings on the screen."""

    def __init__(self):
        try:
            cv2.namedWindow(WINDOW, cv2.WINDOW_NORMAL)
        except cv2.error as error:
            raise InputError(
                "this OpenCV can't open a window (opencv-python can, on a machine with a screen): "
                "give --output"
            ) from error

    def show(self, drawing: np.ndarray, milliseconds: int) -> bool:
        """Shows a drawing that long, 0 for until a key is hit; whether to go on."""
        cv2.imshow(WINDOW, drawing)
        return cv2.waitKey(milliseconds) != ESCAPE


def run_on_images(args: argparse.Namespace, detect) -> list[str]:
    """Draws what is found on each image; a sentence for each input that couldn't be used."""
    files, errors = find_images(args.input)
    window = None
    if args.output:
        targets = [os.path.join(args.output, os.path.basename(file)) for file in files]
        for target, number in Counter(targets).items():
            if number > 1:
                raise InputError(f"{number} inputs would be written to {target}: run them apart")
        require_new(*targets)
        os.makedirs(args.output, exist_ok=True)
    else:
        targets, window = [""] * len(files), Window()
    bar = tqdm(list(zip(files, targets)), unit="image")
    for file, target in bar:
        try:
            drawing = detect(read(file))
            if window:
                if not window.show(drawing, 0):
                    break
            elif not write(target, drawing):
                raise InputError(f"{target} can't be written: its suffix names no known format")
        except InputError as error:
            errors.append(str(error))
            tqdm.write(f"left out: {error}", file=sys.stderr)
    return errors


def write(path: str, drawing: np.ndarray) -> bool:
    try:
        return cv2.imwrite(path, drawing)
    except cv2.error:  # a suffix that OpenCV doesn't know
        return False


def frames(video: cv2.VideoCapture) -> Iterator[np.ndarray]:
    while True:
        success, frame = video.read()
        if not success:
            return
        yield frame


def run_on_video(args: argparse.Namespace, detect) -> None:
    source = 0 if args.webcam else args.video_input
    if args.output:
        require_new(args.output)
    video = cv2.VideoCapture(source)
    if not video.isOpened():
        raise InputError("no camera was found" if args.webcam else f"{source} is no video to read")
    total = None if args.webcam else int(video.get(cv2.CAP_PROP_FRAME_COUNT))
    window = None if args.output else Window()
    writer = None
    try:
        for frame in tqdm(frames(video), total=total, unit="frame"):
            drawing = detect(frame)
            if window:
                if not window.show(drawing, 1):
                    break
                continue
            if writer is None:
                height, width = drawing.shape[:2]
                writer = cv2.VideoWriter(
                    args.output,
                    cv2.VideoWriter_fourcc(*"mp4v"),
                    video.get(cv2.CAP_PROP_FPS) or 25.0,
                    (width, height),
                )
                if not writer.isOpened():
                    raise InputError(f"{args.output} can't be written as a video: name an .mp4")
            writer.write(drawing)
        if args.output and writer is None:
            raise InputError(f"{source} has no frame that can be read")
    finally:
        video.release()
        if writer is not None:
            writer.release()


def main() -> None:
    args = parse_args()
    setup_logger(name="fvcore")  # which weights the checkpoint lacks, for one
    errors = []
    try:
        detector = load_detector(load_config(args.config_file, args.opts))

        def detect(image: np.ndarray) -> np.ndarray:
            tiled = {"tile": args.tile} if args.tile else {}
            found = (predict_tiled if args.tile else predict)(
                detector, image, score_threshold=args.confidence_threshold, **tiled
            )
            return draw_instances(image, found, detector)

        if args.input:
            errors = run_on_images(args, detect)
        else:
            run_on_video(args, detect)
    except (InputError, ValueError, OSError) as error:
        sys.exit(f"demo.py: error: {error}")
    if errors:
        sys.exit("\n".join([f"{len(errors)} input(s) left out:", *errors]))


if __name__ == "__main__":
    main()
