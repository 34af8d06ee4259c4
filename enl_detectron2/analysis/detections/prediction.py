"""Detections on any image, whole or tile by tile."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from detectron2.data.detection_utils import convert_PIL_to_numpy
from detectron2.structures import Instances
from PIL import Image

from enl_detectron2.analysis.detector import Detector
from enl_detectron2.tiling import resized
from enl_detectron2.training.evaluation import in_tiles
from enl_detectron2.utils.errors import UserError


@torch.no_grad()
def predict(
    detector: Detector, image: np.ndarray, *, score_threshold: float, name: str = ""
) -> Instances:
    """What the model finds on an image, on the CPU, in pixels of the image.

    Args:
        detector: of ``load_detector``; whose ``tile`` says whether it looks at tiles.
        image: (height, width, 3) uint8, BGR.
        score_threshold: detections below are left out, those below the model's own anyway.
        name: of the image, for who watches the model.

    Raises:
        ValueError: if the model detects no instances, or the image can't be resized for it.
    """
    colours = Image.fromarray(np.ascontiguousarray(image[:, :, ::-1]))
    pixels = convert_PIL_to_numpy(colours, detector.mapper.image_format)
    if detector.tile > 0:
        pixels = pixels.reshape(*pixels.shape[:2], -1)  # grey has no third dimension
        record = {"image": torch.as_tensor(np.ascontiguousarray(pixels.transpose(2, 0, 1)))}
    else:
        record = resized(pixels, detector.mapper.augmentations)
    model = in_tiles(detector.model, detector.tile, detector.mapper, detector.deep_images)
    (output,) = model([record | {"file_name": name}])
    return instances_above(score_threshold, output)


def instances_above(score_threshold: float, output: Mapping[str, Any]) -> Instances:
    """Those of a model's output for an image, on the CPU.

    Raises:
        UserError: (a ValueError) if the model detects no instances.
    """
    if "instances" not in output:
        raise UserError(f"the model gives {' and '.join(output)}, but no instances to show")
    instances = output["instances"].to("cpu")
    return instances[instances.scores >= score_threshold]
