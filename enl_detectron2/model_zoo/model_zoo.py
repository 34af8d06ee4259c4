"""Configurations and trained weights by their names, as ``detectron2.model_zoo`` has its own."""

from pathlib import Path
from typing import IO

import torch
from detectron2.config import CfgNode, LazyConfig, get_cfg, instantiate
from detectron2.modeling import build_model
from detectron2.utils.file_io import PathManager
from iopath.common.file_io import PathHandler
from omegaconf import DictConfig
from torch import nn

from enl_detectron2.config import add_enl_config

# The wheel has the repository's configs/ beside this file; in a checkout they stay where they are.
_CONFIGS = Path(__file__).with_name("configs")
if not _CONFIGS.is_dir():
    _CONFIGS = Path(__file__).parents[2] / "configs"
_WEIGHTS = Path(__file__).with_name("weights")
# Six of cell nuclei, and nuclei.json, the boxes around them in COCO's format.
PHOTOGRAPHS = Path(__file__).with_name("photographs")
PREFIX = "enl_detectron2://"  # of the weights' names in a configuration


class _Weights(PathHandler):
    """``enl_detectron2://NAME.pth``, in ``MODEL.WEIGHTS`` and wherever detectron2 reads."""

    def _get_supported_prefixes(self) -> list[str]:
        return [PREFIX]

    def _get_local_path(self, path: str, force: bool = False, **kwargs: object) -> str:
        return str(_WEIGHTS / path[len(PREFIX) :])

    def _isfile(self, path: str, **kwargs: object) -> bool:
        return Path(self._get_local_path(path)).is_file()

    def _open(self, path: str, mode: str = "r", buffering: int = -1, **kwargs: object) -> IO:
        return open(self._get_local_path(path), mode, buffering=buffering)


PathManager.register_handler(_Weights())


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


def get_checkpoint_file(config_path: str) -> str:
    """The trained weights of a configuration, as ``MODEL.WEIGHTS`` names them.

    They come with the package, in a ``.pth`` of the configuration's name that any checkpointer of
    detectron2 reads: "model", float16, "class_names", and "results", which the card beside it has
    in words.

    Args:
        config_path: as of :func:`get_config_file`.

    Raises:
        RuntimeError: if there are none; names the configurations that have some.
    """
    get_config_file(config_path)
    name = f"{Path(config_path).stem}.pth"
    if not (_WEIGHTS / name).is_file():
        files = _CONFIGS.rglob("*.yaml")
        trained = [f for f in files if (_WEIGHTS / f"{f.stem}.pth").is_file()]
        known = ", ".join(sorted(str(file.relative_to(_CONFIGS)) for file in trained))
        raise RuntimeError(f"{config_path} has no trained weights in enl_detectron2; {known} have")
    return PREFIX + name


def get_config(config_path: str, trained: bool = False) -> CfgNode | DictConfig:
    """The configuration itself, with this project's keys, of a .yaml or a LazyConfig .py.

    Args:
        config_path: as of :func:`get_config_file`.
        trained: whether its weights are those of :func:`get_checkpoint_file`, not those that a
            training starts from.
    """
    file = get_config_file(config_path)
    if file.endswith(".py"):
        lazy = LazyConfig.load(file)
        if trained:
            lazy.train.init_checkpoint = get_checkpoint_file(config_path)
        return lazy
    cfg = get_cfg()
    add_enl_config(cfg)
    cfg.set_new_allowed(True)  # some hold keys that only this project's own trainer knows
    cfg.merge_from_file(file, allow_unsafe=False)
    cfg.set_new_allowed(False)
    if trained:
        cfg.MODEL.WEIGHTS = get_checkpoint_file(config_path)
    return cfg


def get(config_path: str, trained: bool = False, device: str | None = None) -> nn.Module:
    """The model of a configuration, in training mode, as ``detectron2.model_zoo.get`` gives it.

    Args:
        config_path: as of :func:`get_config_file`.
        trained: whether it has the weights of :func:`get_checkpoint_file`, or random ones.
        device: None means the configuration's, or "cpu" if PyTorch has no CUDA.

    Raises:
        RuntimeError: if there is no such configuration, or it has no trained weights.
        ImportError: if a package of its bottom-up isn't installed; says how to install it.
    """
    if device is None and not torch.cuda.is_available():
        device = "cpu"
    cfg = get_config(config_path, trained)
    if isinstance(cfg, CfgNode):
        if device is not None:
            cfg.MODEL.DEVICE = device
        model = build_model(cfg)
    else:
        model = instantiate(cfg.model).to(device or cfg.train.device)
    if trained:
        # float16 is copied into the model's float32.
        file = PathManager.get_local_path(get_checkpoint_file(config_path))
        model.load_state_dict(torch.load(file, map_location="cpu", weights_only=True)["model"])
    return model
