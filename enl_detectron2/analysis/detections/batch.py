"""Detections on many image files, drawn to files or on the screen."""

import contextlib
import glob
import os
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
from detectron2.structures import Instances
from PIL import Image
from torchvision.datasets.folder import IMG_EXTENSIONS
from tqdm import tqdm

from enl_detectron2.analysis.command_line import require_new
from enl_detectron2.analysis.detector import Detector, naming
from enl_detectron2.utils.errors import BadImage, UserError
from enl_detectron2.utils.files import whole_file
from enl_detectron2.utils.text import one_line

from .video import Draw, Window

# Of an image that is read to be cut into tiles. OpenCV reads no larger drawings back.
MOST_PIXELS = 2**30


def find_images(words: Sequence[str]) -> tuple[list[str], list[str], list[str]]:
    """The image files that files, folders and patterns mean; a sentence for each that means none;
    and the files of folders that are left out.

    Every file comes once, in the order of the words; of a folder those with one of torchvision's
    suffixes of images.
    """
    files, errors, others = [], [], []
    for word in words:
        found, reason = [], "is not a file or folder, and no file matches it as a pattern"
        try:
            if os.path.isdir(word):
                reason = "is a folder without images"
                inside = sorted(map(str, filter(Path.is_file, Path(word).iterdir())))
                found = [file for file in inside if file.lower().endswith(IMG_EXTENSIONS)]
                others += [file for file in inside if file not in found]
            else:
                found = [word] if os.path.exists(word) else sorted(glob.glob(word))
            # A pipe would be waited for.
            found = [file for file in found if os.path.isfile(file)]
        except OSError as error:
            reason = f"can't be read: {error.strerror}"
        files += [file for file in found if file not in files]
        errors += [] if found else [one_line(f"{word} {reason}")]
    return files, errors, others


def new_files(images: Sequence[str], folder: str | os.PathLike) -> list[str]:
    """Where the drawings of images go: to files of the same names in a folder.

    Raises:
        UserError: (a ValueError) if two images have the same name; names it.
        FileExistsError: if one of the files is there.
    """
    targets = [os.path.join(folder, os.path.basename(image)) for image in images]
    for target, number in Counter(targets).items():
        if number > 1:
            raise UserError(f"{number} inputs would be written to {target}: run them apart")
    require_new(*targets)
    return targets


def draw_images(
    detector: Detector,
    images: Sequence[str],
    targets: Sequence[str] | None,
    draw: Draw,
    *,
    done: Callable[[str, Instances], None],
) -> list[str]:
    """Draws what is found on each image.

    Args:
        detector: which knows how to read images. If it looks at tiles they may have up to
            ``MOST_PIXELS``; others are refused as Pillow does.
        images: files.
        targets: the drawing of each, of :func:`new_files`; None to show them in a window.
        draw: an image and its name to what is found on it, and its drawing.
        done: is called with each image that has been drawn, and what was found.

    Returns:
        a sentence for each image that couldn't be used; the others are drawn.

    Raises:
        UserError: (a ValueError) if there is no window.
        FileNotWritten: (an OSError) if a drawing can't be written, as when the disk is full.
    """
    large = detector.tile > 0
    window = Window() if targets is None else None
    errors = []
    with tqdm(images, unit="image") as bar:
        for place, file in enumerate(bar):
            try:
                if window is None:
                    require_format(targets[place])
                with (
                    naming(file),
                    large_images() if large else contextlib.nullcontext(),
                ):
                    found, drawing = draw(detector.read_image(file, "BGR"), file)
                if window is None:
                    write_drawing(targets[place], drawing)
                elif not window.show(drawing, 0):
                    break
                done(file, found)
            except BadImage as error:
                hint = ""
                if isinstance(error.__cause__, Image.DecompressionBombError) and not large:
                    hint = f"; tile by tile, images may have up to {MOST_PIXELS:,} pixels"
                errors.append(one_line(error) + hint)
                tqdm.write(f"left out: {errors[-1]}", file=sys.stderr)
    return errors


@contextlib.contextmanager
def large_images() -> Iterator[None]:
    """Pillow takes images of many pixels for an attack; here ``MOST_PIXELS`` are allowed."""
    usual = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = MOST_PIXELS // 2  # above it Pillow warns, above its double it raises
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            yield
    finally:
        Image.MAX_IMAGE_PIXELS = usual


def require_format(path: str) -> None:
    """Raises BadImage, a ValueError, unless the file's suffix names a format to write."""
    suffix = Path(path).suffix  # all of a name that isn't Unicode would crash OpenCV
    if not suffix.isascii() or not cv2.haveImageWriter(f"drawing{suffix}"):
        raise BadImage(f"{path} can't be written: its suffix names no format that OpenCV writes")


def write_drawing(path: str, drawing: np.ndarray) -> None:
    """Writes an image, BGR, in the format that the file's suffix names, whole or not at all.

    Raises:
        BadImage: (a ValueError) if the format can't hold it, as JPEG above 65,500 pixels a side.
        FileNotWritten: (an OSError) if the file can't be written.
    """
    try:
        done, encoded = cv2.imencode(Path(path).suffix, drawing)
        if not done:
            raise ValueError("OpenCV gives no reason")
    except (cv2.error, ValueError) as error:
        height, width = drawing.shape[:2]
        raise BadImage(
            f"{path} can't hold a drawing of {width}×{height} pixels: {one_line(error)}"
        ) from error
    with whole_file(path) as file:
        file.write(encoded.data)
