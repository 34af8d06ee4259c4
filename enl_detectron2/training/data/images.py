"""Reading images, in one place for training, evaluation and every tool."""

from pathlib import Path

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import detection_utils
from detectron2.utils.file_io import PathManager
from omegaconf import DictConfig, OmegaConf
from PIL import Image, ImageOps, UnidentifiedImageError

from enl_detectron2.utils.errors import BadImage, ConfigError
from enl_detectron2.utils.text import reason

# What can be done with images of more than 8 bits a channel, as microscopes make them.
DEEP_IMAGES = ("refuse", "rescale")
# Pillow's modes of such images, whose conversion to RGB cuts off what is above 255.
DEEP_MODES = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")


def read_image(
    file: str | Path, format: str | None = None, *, deep_images: str = "refuse"
) -> np.ndarray:
    """detectron2's ``read_image``, which turns the image as its EXIF data say.

    Args:
        file: the image.
        format: of the result: a mode of Pillow's, "BGR" or "YUV-BT.601"; by default the file's.
        deep_images: "refuse" images with more than 8 bits a channel, or "rescale" them, the
            lowest value of the image to 0 and the highest to 255.

    Returns:
        (height, width, channels), uint8 but for "YUV-BT.601".

    Raises:
        BadImage: (a ValueError) whatever is wrong with the file; one sentence, which names it.
    """
    try:
        path = Path(file)
        if path.exists() and not path.is_file():  # a pipe would be waited for, without an end
            raise ValueError("it is not a regular file")
        image = rescaled(file, deep_images)
        if image is None:
            return detection_utils.read_image(str(file), format=format)
        return detection_utils.convert_PIL_to_numpy(image, format)
    except UnidentifiedImageError as error:
        raise BadImage(f"{file} can't be read: Pillow knows no image format like it") from error
    except Exception as error:  # Pillow raises errors of many kinds for damaged files
        raise BadImage(f"{file} can't be read: {reason(error)}") from error


def rescaled(file: str | Path, deep_images: str) -> Image.Image | None:
    """An image of more than 8 bits in 8, upright; None of one that has no more.

    Args:
        file: the image.
        deep_images: as of :func:`read_image`.

    Raises:
        ValueError: if the image is deep, and deep ones are refused, or a pixel isn't finite.
        Exception: whatever Pillow raises at a file that is no image.
    """
    with PathManager.open(str(file), "rb") as opened, Image.open(opened) as image:
        if image.mode not in DEEP_MODES:
            return None
        if deep_images != "rescale":
            raise ValueError(
                f"its pixels have more than 8 bits (Pillow's mode {image.mode}), which would be "
                "cut off at 255; convert it to 8 bits, or set DATALOADER.DEEP_IMAGES (in a "
                "LazyConfig train.deep_images) to 'rescale'"
            )
        pixels = np.asarray(ImageOps.exif_transpose(image)).astype(np.float64)
    if not np.isfinite(pixels).all():
        raise ValueError("some of its pixels are infinite or no numbers")
    pixels -= pixels.min()
    pixels *= 255 / (pixels.max() or 1)  # an image of one value is black
    return Image.fromarray(pixels.round().astype(np.uint8))


def deep_images_of(cfg: CfgNode | DictConfig) -> str:
    """What a configuration says about images of more than 8 bits; "refuse" if it says nothing.

    Raises:
        ConfigError: (a ValueError) if it is none of ``DEEP_IMAGES``.
    """
    if isinstance(cfg, CfgNode):
        value = cfg.DATALOADER.get("DEEP_IMAGES", "refuse")
    else:
        value = OmegaConf.select(cfg, "train.deep_images", default="refuse")
    if value not in DEEP_IMAGES:
        raise ConfigError(
            "DATALOADER.DEEP_IMAGES (in a LazyConfig train.deep_images) must be 'refuse' or "
            f"'rescale', got {value!r}"
        )
    return value
