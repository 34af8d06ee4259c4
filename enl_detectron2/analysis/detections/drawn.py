"""Detections drawn so that they can be counted: thin outlines, labels only where there is room."""

import colorsys
from collections import Counter
from collections.abc import Sequence

import cv2
import numpy as np
from detectron2.structures import Instances
from matplotlib.font_manager import findfont
from PIL import Image, ImageColor, ImageDraw, ImageFont

from enl_detectron2.analysis.detector import Detector
from enl_detectron2.analysis.drawing import shortened
from enl_detectron2.analysis.palette import MODEL_COLOURS

LABELS = ("auto", "all", "none")
LEAST_DRAWN = 640  # pixels, the longest side: smaller images are enlarged
DARK = 128  # of 255: an image with hardly a brighter pixel is stretched
GOLDEN = 0.618  # of the circle of hues from one class to the next
TEXT, BACK = "#FFFFFF", "#202020"


def draw_instances(
    image: np.ndarray, instances: Instances, detector: Detector, labels: str = "auto"
) -> np.ndarray:
    """Boxes, the outlines of masks, and keypoints, each class in a colour of its own.

    Args:
        image: (height, width, 3) uint8, BGR.
        instances: of ``predict``, in pixels of the image.
        detector: which knows the classes' names.
        labels: class and score beside "all" objects, "none", or those where they hide no other
            object and no other label ("auto").

    Returns:
        (height, width, 3) uint8, BGR, enlarged if the image is small; a dark image is stretched.
        Below it is a strip with how many there are of each class. The same size for the same size
        of image.
    """
    height, width = image.shape[:2]
    scale = max(1.0, LEAST_DRAWN / max(height, width))
    size = round(width * scale), round(height * scale)
    picture = Image.fromarray(np.ascontiguousarray(stretched(image)[:, :, ::-1])).resize(size)
    pen = ImageDraw.Draw(picture)
    line = max(1, round(max(size) / 1000))
    classes = instances.pred_classes.tolist()
    colours = [class_colour(index) for index in classes]
    boxes = instances.pred_boxes.tensor.numpy() * scale
    masks = np.asarray(instances.pred_masks) if instances.has("pred_masks") else None
    for place, (box, colour) in enumerate(zip(boxes.tolist(), colours)):
        if masks is not None:
            _outline(pen, masks[place], scale, colour, line)
        else:
            pen.rectangle(box, outline=colour, width=line)
        if instances.has("pred_keypoints"):
            for x, y, _ in (instances.pred_keypoints[place] * scale).tolist():
                pen.ellipse([x - 2 * line, y - 2 * line, x + 2 * line, y + 2 * line], fill=colour)
    font = drawing_font(max(11, round(max(size) / 110)))
    if labels != "none":
        texts = [
            f"{shortened(detector.class_name(index))} {score:.0%}"
            for index, score in zip(classes, instances.scores.tolist())
        ]
        write_labels(pen, boxes, texts, colours, font, size, everywhere=labels == "all")
    drawing = Image.new("RGB", (size[0], size[1] + 2 * font.size), BACK)
    drawing.paste(picture)
    _write_counts(ImageDraw.Draw(drawing), classes, detector, font, size)
    return np.ascontiguousarray(np.asarray(drawing)[:, :, ::-1])


def class_colour(index: int) -> str:
    """As #RRGGBB, the palette's as far as it goes."""
    if index < len(MODEL_COLOURS):
        return MODEL_COLOURS[index]
    red, green, blue = colorsys.hsv_to_rgb(index * GOLDEN % 1, 0.6, 1.0)
    return f"#{round(red * 255):02X}{round(green * 255):02X}{round(blue * 255):02X}"


def drawing_font(size: int) -> ImageFont.FreeTypeFont:
    """The font that comes with matplotlib, of so many pixels."""
    return ImageFont.truetype(findfont("DejaVu Sans"), size)


def stretched(image: np.ndarray) -> np.ndarray:
    """An image of which hardly a pixel is brighter than ``DARK``, from black to white."""
    low, high = np.percentile(image, [0.5, 99.8])
    if high >= DARK or high <= low:
        return image
    return ((image - low) * (255 / (high - low))).clip(0, 255).astype(np.uint8)


def _outline(pen, mask: np.ndarray, scale: float, colour: str, line: int) -> None:
    found, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    for contour in found:
        points = [tuple(point) for point in ((contour[:, 0] + 0.5) * scale).tolist()]
        pen.line([*points, points[0]], fill=colour, width=line)


def write_labels(
    pen,
    boxes: np.ndarray,
    texts: Sequence[str],
    colours: Sequence[str],
    font: ImageFont.FreeTypeFont,
    size: tuple[int, int],
    *,
    everywhere: bool,
) -> None:
    """Writes a text above or below each box, where it hides no other box and no other text.

    Args:
        pen: of the picture.
        boxes: (n, 4), x₀ y₀ x₁ y₁ in pixels of the picture.
        texts, colours: for each box; no texts are none.
        font: of the texts.
        size: of the picture, width and height.
        everywhere: whether the others are written all the same.
    """
    taken = boxes.reshape(-1, 4)
    for place, (text, colour) in enumerate(zip(texts, colours)):
        left, top, right, bottom = pen.textbbox((0, 0), text, font=font)
        wide, high = right + 4, bottom + 2
        x0, y0, _, y1 = boxes[place].tolist()
        x0 = min(max(x0, 0), max(size[0] - wide, 0))
        spots = [(x0, y0 - high), (x0, y1)]  # above, or below
        others = np.delete(taken, place, axis=0)
        free = [spot for spot in spots if _is_free(spot, (wide, high), others, size)]
        if not free and not everywhere:
            continue
        x, y = free[0] if free else (x0, max(y0 - high, 0))
        pen.rectangle([x, y, x + wide - 1, y + high - 1], fill=BACK)
        pen.text((x + 2, y), text, font=font, fill=colour)
        taken = np.concatenate([taken, [[x, y, x + wide, y + high]]])


def _is_free(spot, extent, others: np.ndarray, size: tuple[int, int]) -> bool:
    low, high = np.array(spot), np.add(spot, extent)
    if (low < 0).any() or (high > size).any():
        return False
    return not ((others[:, :2] < high) & (others[:, 2:] > low)).all(axis=1).any()


def _write_counts(pen, classes, detector: Detector, font, size: tuple[int, int]) -> None:
    x, y = font.size // 2, size[1] + font.size * 0.4
    total = f"{len(classes)} found"
    pen.text((x, y), total, font=font, fill=TEXT)
    x += pen.textlength(total, font=font) + font.size
    for index, number in sorted(Counter(classes).items()):
        text = f"{shortened(detector.class_name(index))} {number}"
        if x + pen.textlength(text, font=font) > size[0] - font.size:
            pen.text((x, y), "…", font=font, fill=TEXT)
            break
        pen.text((x, y), text, font=font, fill=ImageColor.getrgb(class_colour(index)))
        x += pen.textlength(text, font=font) + font.size
