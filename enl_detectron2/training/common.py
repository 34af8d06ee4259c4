"""What runs from YAML and from LazyConfigs have in common, beside detectron2's own parts."""

import argparse
import contextlib
import copy
import logging
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.engine import HookBase, create_ddp_model, default_setup
from detectron2.modeling.roi_heads.keypoint_head import BaseKeypointRCNNHead
from detectron2.utils import comm
from detectron2.utils.file_io import PathManager
from detectron2.utils.logger import setup_logger
from omegaconf import DictConfig
from torch import nn

from .data.loader import TrainLoader
from .folder import lock, set_aside, take_up, warn_of_changes
from .hooks import FirstSteps, RepeatableSteps

COCO_MAX_DETECTIONS = 100  # an image, in COCO's own metrics

logger = logging.getLogger(__name__)


def prepare_run(cfg: CfgNode | DictConfig, args: argparse.Namespace) -> None:
    """detectron2's ``default_setup``, for one training a folder at a time.

    An evaluation writes its ``config.yaml`` and its log into the folder's ``inference``: those of
    the folder itself are the training's.

    Args:
        cfg: not frozen; without a GPU its device becomes the CPU.
        args: of detectron2's ``default_argument_parser``.

    Raises:
        ConfigError: (a ValueError) if another process trains in the folder.
    """
    has_no_gpu, said = _use_cpu_without_gpu(cfg), ""
    folder = cfg.OUTPUT_DIR if isinstance(cfg, CfgNode) else cfg.train.output_dir
    if args.eval_only:
        folder, cfg = os.path.join(folder, "inference"), copy.deepcopy(cfg)
        if isinstance(cfg, CfgNode):
            cfg.OUTPUT_DIR = folder
        else:
            cfg.train.output_dir = folder
    elif comm.is_main_process():
        PathManager.mkdirs(folder)
        lock(folder)
        said = take_up(folder) if args.resume else set_aside(folder)
    written = Path(folder, "config.yaml")
    resumes = args.resume and not args.eval_only and comm.is_main_process()
    before = written.read_text() if resumes and written.is_file() else ""

    rank = comm.get_rank()
    # As default_setup calls it in a moment, which then finds this logger with its handlers.
    setup_logger(folder, distributed_rank=rank)
    with quiet_terminal():
        default_setup(cfg, args)
    # What this package says goes where detectron2's own words go, and on to who else listens.
    setup_logger(folder, rank, name="enl_detectron2", abbrev_name="enl", enable_propagation=True)
    logger.info("Environment, configuration and model are described in %s/log.txt", folder)
    if has_no_gpu:
        logger.warning("There is no GPU here: the model runs on the CPU, in float32.")
    if said:
        logger.warning(said)
    if before:
        warn_of_changes(before, written.read_text())


@contextlib.contextmanager
def quiet_terminal() -> Iterator[None]:
    """Keeps detectron2's long descriptions off the terminal, where only warnings appear meanwhile.

    ``log.txt`` has them; where there is none, they stay.
    """
    everywhere = logging.getLogger("detectron2").handlers
    handlers = [each for each in everywhere if getattr(each, "stream", None) is sys.stdout]
    if len(handlers) == len(everywhere):  # it would be nowhere
        handlers = []
    levels = [each.level for each in handlers]
    for each in handlers:
        each.setLevel(logging.WARNING)
    try:
        yield
    finally:
        for each, level in zip(handlers, levels, strict=True):
            each.setLevel(level)


def _use_cpu_without_gpu(cfg: CfgNode | DictConfig) -> bool:
    """Changes a device "cuda" that isn't there; says whether it did."""
    is_yaml = isinstance(cfg, CfgNode)
    device = cfg.MODEL.DEVICE if is_yaml else cfg.train.device
    if torch.device(device).type != "cuda" or torch.cuda.is_available():
        return False
    if is_yaml:
        cfg.MODEL.DEVICE, cfg.SOLVER.AMP.ENABLED = "cpu", False
    else:
        cfg.train.device, cfg.train.amp.enabled = "cpu", False
    return True


def in_fast_layout(model: nn.Module, device: str) -> nn.Module:
    """The model on ``device``; on a CPU with convolutions in the memory format that is fastest."""
    model = model.to(device)
    for module in model.modules() if torch.device(device).type == "cpu" else ():
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            module.to(memory_format=torch.channels_last)
    for module in model.modules():
        if isinstance(module, BaseKeypointRCNNHead):  # whose loss takes views of contiguous maps
            module.to(memory_format=torch.contiguous_format)
    return model


def replicate(model: nn.Module, device: str, **options: Any) -> nn.Module:
    """detectron2's ``create_ddp_model`` for a model on ``device``.

    detectron2 tells PyTorch which GPU the process has, which a model on the CPU refuses.
    """
    if torch.device(device).type == "cpu":
        options["device_ids"] = None
    return create_ddp_model(model, **options)


def repeatable(loader: Iterable, seed: int, on_bad_image: str, deep_images: str) -> Iterable:
    """The loader as a ``TrainLoader``, if it is one of map-style data."""
    if seed < 0:
        seed = comm.shared_random_seed()
    try:
        return TrainLoader(loader, seed, on_bad_image, deep_images)
    except TypeError as error:
        logger.warning(
            "When it is resumed, this training loads its data in another order: %s", error
        )
        return loader


def own_hooks(seed: int) -> list[HookBase]:
    """This project's hooks, which come before detectron2's; ``seed`` below 0 is none."""
    hooks = [RepeatableSteps(seed)] if seed >= 0 else []
    return [*hooks, FirstSteps()] if comm.is_main_process() else hooks
