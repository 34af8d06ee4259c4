"""A configuration's trained model, ready to look at image files one by one."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from detectron2.config import CfgNode, instantiate
from detectron2.data import DatasetCatalog, DatasetMapper, MetadataCatalog
from detectron2.modeling import build_model
from omegaconf import DictConfig, OmegaConf
from torch import nn

from enl_detectron2.training.checkpoint import ENLCheckpointer
from enl_detectron2.training.data import register_coco_format


@dataclass(frozen=True)
class Detector:
    """A model in inference mode, and what it takes to use it on an image file."""

    model: nn.Module
    mapper: Callable[[dict[str, Any]], dict[str, Any]]  # of detectron2's test loader
    class_names: list[str]  # empty if the data set that names them isn't there

    def read(self, image_file: str) -> dict[str, Any]:
        """What the model takes for one image, resized as for a test.

        Raises:
            ValueError: if the file can't be read as an image; names it.
        """
        try:
            return self.mapper({"file_name": image_file})
        except OSError as error:
            raise ValueError(f"{image_file} can't be read as an image: {error}") from error

    def class_name(self, index: int) -> str:
        if index < len(self.class_names):
            return self.class_names[index]
        return f"class {index}"


def load_detector(cfg: CfgNode | DictConfig) -> Detector:
    """The model of a configuration with its weights (``MODEL.WEIGHTS``, ``train.init_checkpoint``).

    It runs on the configuration's device, or on the CPU where there is no GPU.

    Raises:
        ValueError: if there are no weights, or they can't be loaded; names the key.
    """
    is_yaml = isinstance(cfg, CfgNode)
    key = "MODEL.WEIGHTS" if is_yaml else "train.init_checkpoint"
    weights = cfg.MODEL.WEIGHTS if is_yaml else cfg.train.init_checkpoint
    device = cfg.MODEL.DEVICE if is_yaml else cfg.train.device
    if not torch.cuda.is_available() and str(device).startswith("cuda"):
        device = "cpu"
    if is_yaml:
        cfg = cfg.clone()
        cfg.defrost()
        cfg.MODEL.DEVICE = device
        model = build_model(cfg)
        mapper = DatasetMapper(cfg, is_train=False)
    else:
        model = instantiate(cfg.model).to(device)
        mapper = instantiate(cfg.dataloader.test.mapper)
    model.eval()
    try:
        ENLCheckpointer(model, complete=True).load(weights)
    except (AssertionError, OSError) as error:
        raise ValueError(f"{key}: {weights} can't be loaded: {error}") from error
    return Detector(model, mapper, _class_names(cfg))


def _class_names(cfg: CfgNode | DictConfig) -> list[str]:
    """Those of the first set to test on, which a set of COCO format keeps in its file."""
    if isinstance(cfg, CfgNode):
        names = cfg.DATASETS.TEST
        entries = [entry for entry in cfg.DATASETS.COCO_FORMAT if entry[0] in names[:1]]
    else:
        names, entries = OmegaConf.to_container(cfg.dataloader.test.dataset)["names"], []
        names = [names] if isinstance(names, str) else names
    if entries:
        try:
            register_coco_format(entries)
        except FileNotFoundError:
            return []
        DatasetCatalog.get(names[0])  # reads the file, and with it the names
    return MetadataCatalog.get(names[0]).get("thing_classes", []) if names else []
