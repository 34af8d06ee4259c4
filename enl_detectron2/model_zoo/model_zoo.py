"""The project's configurations by their names, as ``detectron2.model_zoo`` has detectron2's."""

from pathlib import Path

import torch
from detectron2.config import CfgNode, LazyConfig, get_cfg, instantiate
from detectron2.modeling import build_model
from omegaconf import DictConfig
from torch import nn

from enl_detectron2.config import add_enl_config

# setup.py puts the repository's configs/ beside this file; in a checkout they stay where they are.
_CONFIGS = Path(__file__).with_name("configs")
if not _CONFIGS.is_dir():
    _CONFIGS = Path(__file__).parents[2] / "configs"


def get_config_file(config_path: str) -> str:
    """The path of a configuration file of this project.

    Args:
        config_path: relative to ``configs/``: "enl_rcnn_R50.yaml", "lazy/enl_rcnn_R50.py", …

    Raises:
        RuntimeError: if there is no such configuration, as ``detectron2.model_zoo`` does.
    """
    if not (_CONFIGS / config_path).is_file():
        raise RuntimeError(f"{config_path} not available in enl_detectron2's model zoo!")
    return str(_CONFIGS / config_path)


def get_config(config_path: str) -> CfgNode | DictConfig:
    """The configuration itself, with this project's keys, of a .yaml or a LazyConfig .py.

    Args:
        config_path: as of :func:`get_config_file`.
    """
    file = get_config_file(config_path)
    if file.endswith(".py"):
        return LazyConfig.load(file)
    cfg = get_cfg()
    add_enl_config(cfg)
    cfg.set_new_allowed(True)  # some hold keys that only this project's own trainer knows
    cfg.merge_from_file(file, allow_unsafe=False)
    cfg.set_new_allowed(False)
    return cfg


def get(config_path: str, device: str | None = None) -> nn.Module:
    """The untrained model of a configuration, in training mode.

    Args:
        config_path: as of :func:`get_config_file`.
        device: None means the configuration's, or "cpu" if PyTorch has no CUDA.
    """
    if device is None and not torch.cuda.is_available():
        device = "cpu"
    cfg = get_config(config_path)
    if isinstance(cfg, CfgNode):
        if device is not None:
            cfg.MODEL.DEVICE = device
        return build_model(cfg)
    return instantiate(cfg.model).to(device or cfg.train.device)
