"""The attention explorer: one HTML file an image, in which any pixel can be asked what it looks at.

A page holds the image, its detections, and θ̂, φ̂, L_h and L_w of each relation block; it computes
the rows of F̃ itself, as :mod:`enl_detectron2.analysis.attention.maps` does, and needs no server and
no network. The four are stored as 16-bit integers with one scale a channel, or a row of L_h or L_w.
"""

import base64
import html
import json
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from torch import Tensor

from enl_detectron2.analysis.detections.prediction import instances_above
from enl_detectron2.analysis.detector import Detector, naming
from enl_detectron2.utils.errors import BadImage

from .colours import ABOVE_ZERO, BELOW_ZERO
from .maps import Attention, capture_attention

logger = logging.getLogger(__name__)

JPEG_QUALITY = 90
_LARGEST = np.iinfo(np.int16).max


@dataclass(frozen=True)
class Detection:
    """A detected object; ``box`` is x₀ y₀ x₁ y₁ in pixels of the image."""

    label: str
    score: float
    box: tuple[float, float, float, float]


def write_explorer(
    detector: Detector,
    image_files: Sequence[str],
    folder: Path,
    *,
    score_threshold: float,
    caption: str = "",
) -> list[str]:
    """Writes a page for each image.

    Args:
        detector: a model with relation blocks.
        image_files: a file that can't be read or used is logged and left out.
        folder: made if it isn't there; pages of the same names in it are replaced.
        score_threshold: detections below are left out.
        caption: what to say about the model.

    Returns:
        the image files that could not be read or used.

    Raises:
        ValueError: if the model has no block whose attention could be shown, or no detections.
    """
    folder.mkdir(parents=True, exist_ok=True)
    taken: set[str] = set()
    unreadable = []
    for image_file in image_files:
        try:
            record = detector.read(image_file)
            image = detector.read_image(image_file, "RGB")
            with naming(image_file):
                output, attention = capture_attention(detector.model, record)
        except BadImage as error:
            logger.error("left out: %s", error)
            unreadable.append(image_file)
            continue
        found = instances_above(score_threshold, output)
        detections = [
            Detection(detector.class_name(label), score, tuple(box))
            for label, score, box in zip(
                found.pred_classes.tolist(),
                found.scores.tolist(),
                found.pred_boxes.tensor.tolist(),
            )
        ]
        page = explorer_page(image, attention, detections, Path(image_file).name, caption)
        stem = Path(image_file).stem
        name, number = f"{stem}.html", 2
        while name in taken:
            name, number = f"{stem}-{number}.html", number + 1
        taken.add(name)
        # File names needn't be Unicode.
        (folder / name).write_text(page, encoding="utf-8", errors="backslashreplace")
        logger.info("%s, %.1f MB", folder / name, len(page) / 1e6)
    return unreadable


def explorer_page(
    image: np.ndarray,
    attention: Mapping[str, Attention],
    detections: Sequence[Detection],
    title: str,
    caption: str = "",
) -> str:
    """The HTML of one image's page.

    Args:
        image: (height, width, 3), RGB, uint8; shown no larger than the network saw it.
        attention: of this image, by the block's name.
        detections: in pixels of ``image``.
        title: the image's name.
        caption: what to say about the model.
    """
    height, width = image.shape[:2]
    input_height, input_width = next(iter(attention.values())).image_size
    scale = min(1.0, input_height / height)
    if scale < 1:
        image = cv2.resize(image, (input_width, input_height), interpolation=cv2.INTER_AREA)
    data = {
        "title": title,
        "caption": caption,
        "image": _jpeg(image),
        "width": image.shape[1],
        "height": image.shape[0],
        "above": ABOVE_ZERO,
        "below": BELOW_ZERO,
        "detections": [
            {
                "label": detection.label,
                "score": round(detection.score, 4),
                "box": [round(edge * scale, 2) for edge in detection.box],
            }
            for detection in sorted(detections, key=lambda d: -d.score)
        ],
        "levels": [_level(name, block) for name, block in attention.items()],
    }
    return _fill(
        "explorer.html",
        title=html.escape(f"{title}: what this pixel looks at"),
        style=_read("explorer.css"),
        script=_read("explorer.js"),
        # A class called </script> must not end the element.
        data=json.dumps(data, separators=(",", ":")).replace("<", "\\u003c"),
    )


def _level(name: str, block: Attention) -> dict[str, Any]:
    height, width = block.map_size
    return {
        "name": name,
        "label": f"stride {block.stride}" + (" bottom-up" if "bottom_up" in name else ""),
        "stride": block.stride,
        "height": height,
        "width": width,
        "visible": block.visible_size,
        "cell": [block.stride / pixels for pixels in block.image_size],  # of the image's sides
        "channels": block.theta.shape[0],
        "softmax": block.softmax,
        "multiply": block.multiply,
        "signed": block.signed,
        "theta": _quantise(block.theta),
        "phi": _quantise(block.phi),
        "position": None if block.kernels is None else [_quantise(k) for k in block.kernels],
    }


def _quantise(map_: Tensor) -> dict[str, Any]:
    """(D, …) as little-endian 16-bit integers, base64, and D scales: value = integer · scale."""
    channels = map_.cpu().numpy().astype(np.float64).reshape(len(map_), -1)
    scales = np.abs(channels).max(axis=1) / _LARGEST
    scales[scales == 0] = 1.0  # of what is zero everywhere
    values = np.rint(channels / scales[:, None]).astype("<i2")
    return {"values": _base64(values), "scales": scales.tolist()}


def _base64(array: np.ndarray) -> str:
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode("ascii")


def _jpeg(image: np.ndarray) -> str:
    quality = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
    _, encoded = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), quality)
    return "data:image/jpeg;base64," + _base64(encoded)


def _read(name: str) -> str:
    return (resources.files(__package__) / "web" / name).read_text(encoding="utf-8")


def _fill(template: str, **parts: str) -> str:
    """A template with each {{name}} replaced; what is filled in isn't looked at again."""
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], _read(template))
