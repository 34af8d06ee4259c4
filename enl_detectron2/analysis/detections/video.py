"""Detections on a video or of a camera, drawn to a file or on the screen."""

import contextlib
from collections.abc import Callable, Iterator

import cv2
import numpy as np
from detectron2.structures import Instances
from tqdm import tqdm

from enl_detectron2.analysis.command_line import require_new
from enl_detectron2.analysis.detector import naming
from enl_detectron2.utils.errors import UserError

WINDOW = "detections"
ESCAPE = 27  # the key that closes the window

# An image and its name to what is found on it, and its drawing; both are BGR.
Draw = Callable[[np.ndarray, str], tuple[Instances, np.ndarray]]


def draw_video(draw: Draw, source: str | int, target: str | None) -> list[str]:
    """Draws what is found on each frame.

    Args:
        draw: a frame and its name to what is found on it, and its drawing.
        source: a video file, or the number of a camera.
        target: the video to write; None to show it in a window.

    Returns:
        a sentence if fewer frames could be read than the file says it has.

    Raises:
        UserError: (a ValueError) if the video can't be read, or there is no window.
        BadImage: (a ValueError) if the model can't use a frame.
    """
    if target:
        require_new(target)
    video = cv2.VideoCapture(source)
    is_camera = isinstance(source, int)
    if not video.isOpened():
        raise UserError("no camera was found" if is_camera else f"{source} is not a readable video")
    said = 0 if is_camera else int(video.get(cv2.CAP_PROP_FRAME_COUNT))
    rate = video.get(cv2.CAP_PROP_FPS) or 25.0
    screen = _video_file(target, rate) if target else contextlib.nullcontext(Window().show)
    with screen as show, tqdm(total=said or None, unit="frame") as bar:
        while True:
            success, frame = video.read()
            if not success:
                break
            name = f"{source}, frame {bar.n + 1}"
            with naming(f"{name},"):
                _, drawing = draw(frame, name)
            if not show(drawing, 1):
                return []
            bar.update()
        if not bar.n:
            raise UserError(f"{source} has no frame that can be read")
    return [f"{source}: only {bar.n} of its {said} frames could be read"] if bar.n < said else []


@contextlib.contextmanager
def _video_file(path: str, rate: float) -> Iterator[Callable[[np.ndarray, int], bool]]:
    """Writes drawings as :meth:`Window.show` shows them, ``rate`` frames a second."""
    writer = cv2.VideoWriter()

    def write(drawing: np.ndarray, _: int) -> bool:
        height, width = drawing.shape[:2]
        codec = cv2.VideoWriter_fourcc(*"mp4v")
        if not writer.isOpened() and not writer.open(path, codec, rate, (width, height)):
            raise UserError(f"{path} can't be written as a video: name an .mp4")
        writer.write(drawing)
        return True

    try:
        yield write
    finally:
        writer.release()


class Window:
    """Shows drawings on the screen."""

    def __init__(self):
        try:
            cv2.namedWindow(WINDOW, cv2.WINDOW_NORMAL)
        except cv2.error as error:
            raise UserError(
                "this OpenCV can't open a window (opencv-python can, on a machine with a screen): "
                "give --output"
            ) from error

    def show(self, drawing: np.ndarray, milliseconds: int) -> bool:
        """Shows a drawing that long, 0 for until a key is hit; whether to go on."""
        cv2.imshow(WINDOW, drawing)
        return cv2.waitKey(milliseconds) != ESCAPE
