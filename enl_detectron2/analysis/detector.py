"""A configuration's trained model, ready to look at image files one by one."""

import contextlib
import logging
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode, instantiate
from detectron2.data import DatasetMapper
from detectron2.modeling import build_model
from omegaconf import DictConfig
from torch import nn

from enl_detectron2.tiling import resized
from enl_detectron2.training.checkpoint import ENLCheckpointer
from enl_detectron2.training.checkpoint_files import CLASS_NAMES
from enl_detectron2.training.data import class_names, register_coco_format
from enl_detectron2.training.data.images import deep_images_of, read_image
from enl_detectron2.training.evaluation import tile_of
from enl_detectron2.training.lazy import set_names
from enl_detectron2.utils.errors import BadImage, UserError
from enl_detectron2.utils.text import one_line

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Detector:
    """A model in inference mode, and what it takes to use it on an image file."""

    model: nn.Module
    mapper: Callable[[dict[str, Any]], dict[str, Any]]  # of detectron2's test loader
    class_names: list[str]  # empty if the data set that names them isn't there
    deep_images: str = "refuse"  # what to do with more than 8 bits, one of DEEP_IMAGES
    tile: int = 0  # the side of tiles for ``predict``, in pixels; 0 for whole photographs

    def read_image(self, image_file: str | os.PathLike, format: str) -> np.ndarray:
        """(height, width, channels) uint8, as the configuration wants its images to be read.

        Raises:
            BadImage: (a ValueError) if the file can't be read; names it.
        """
        return read_image(image_file, format, deep_images=self.deep_images)

    def read(self, image_file: str | os.PathLike) -> dict[str, Any]:
        """What the model takes for one image file, resized as for a test.

        Raises:
            BadImage: (a ValueError) if the file can't be read or resized; names it.
        """
        image = self.read_image(image_file, self.mapper.image_format)
        with naming(image_file):
            return {"file_name": str(image_file), **resized(image, self.mapper.augmentations)}

    def class_name(self, index: int) -> str:
        if index < len(self.class_names):
            return self.class_names[index]
        return f"class {index}"


@contextlib.contextmanager
def naming(image_file: str | os.PathLike) -> Iterator[None]:
    """For what is done with one image: what fails because of it is reported with its file.

    Raises:
        BadImage: (a ValueError) in place of an error of the model, as PyTorch's where the memory
            doesn't suffice, or of an image that can't be resized.
    """
    try:
        yield
    except UserError:
        raise
    except MemoryError as error:
        raise BadImage(f"{image_file} can't be used: there is not enough memory") from error
    except (ValueError, RuntimeError) as error:
        raise BadImage(f"{image_file} can't be used: {one_line(error)}") from error


def load_detector(cfg: CfgNode | DictConfig) -> Detector:
    """The model of a configuration with its weights (``MODEL.WEIGHTS``, ``train.init_checkpoint``).

    It runs on the configuration's device, or on the CPU where there is no GPU.

    Raises:
        ValueError: as of ``ENLCheckpointer.load``.
    """
    is_yaml = isinstance(cfg, CfgNode)
    model, mapper = (_build_yaml if is_yaml else _build_lazy)(cfg)
    model.eval()
    weights = cfg.MODEL.WEIGHTS if is_yaml else cfg.train.init_checkpoint
    about = ENLCheckpointer(model, complete=True).load(weights)
    names = about.get(CLASS_NAMES)  # of the weights first: those are what they learned
    if not isinstance(names, list) or num_classes(model) not in (None, len(names)):
        names = []
    names = names or _class_names(cfg, model)
    return Detector(model, mapper, names, deep_images_of(cfg), tile_of(cfg))


def _build_yaml(cfg: CfgNode) -> tuple[nn.Module, DatasetMapper]:
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.DEVICE = _device_there(cfg.MODEL.DEVICE)
    return build_model(cfg), DatasetMapper(cfg, is_train=False)


def _build_lazy(cfg: DictConfig) -> tuple[nn.Module, Callable]:
    model = instantiate(cfg.model).to(_device_there(cfg.train.device))
    return model, instantiate(cfg.dataloader.test.mapper)


def _device_there(device: str) -> str:
    if not str(device).startswith("cuda") or torch.cuda.is_available():
        return device
    print("No GPU was found: using the CPU.", file=sys.stderr)
    return "cpu"


def num_classes(model: nn.Module) -> int | None:
    """How many classes of objects a model knows; None if it doesn't say."""
    return getattr(getattr(model, "roi_heads", model), "num_classes", None)


def _class_names(cfg: CfgNode | DictConfig, model: nn.Module) -> list[str]:
    """Those of the first set to test on, which a set of COCO format keeps in its file.

    None where the set has another number of classes than the model: it must be another set's then.
    """
    names = _names_of_set(cfg)
    number = num_classes(model)
    if names and number not in (None, len(names)):
        logger.warning(
            "the set to test on has %d classes, the model %d: they are shown by number",
            len(names),
            number,
        )
        return []
    return names


def _names_of_set(cfg: CfgNode | DictConfig) -> list[str]:
    if isinstance(cfg, CfgNode):
        sets = list(cfg.DATASETS.TEST)
        with contextlib.suppress(FileNotFoundError):  # it is somewhere else
            register_coco_format([one for one in cfg.DATASETS.COCO_FORMAT if one[0] in sets[:1]])
        return class_names(sets)
    return class_names(set_names(cfg, "test"))
