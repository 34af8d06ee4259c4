"""What runs from YAML and from LazyConfigs are put together from, beside detectron2's own parts."""

import argparse
import copy
import logging
import os
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.engine import (
    HookBase,
    create_ddp_model,
    default_setup,
)
from detectron2.modeling.roi_heads.keypoint_head import BaseKeypointRCNNHead
from detectron2.utils import comm
from detectron2.utils.env import seed_all_rng
from detectron2.utils.logger import setup_logger
from omegaconf import DictConfig
from torch import nn

from enl_detectron2.utils.errors import ConfigError, summarize

from .building import EarlyLog
from .data.loader import TrainLoader
from .hooks import RepeatableSteps, StopAtDivergence, StopAtUnusedParameters
from .provenance import write_environment

logger = logging.getLogger(__name__)


def seed_everything(seed: int) -> None:
    """What detectron2's ``default_setup`` does, before there is a folder that it could write to."""
    seed_all_rng(None if seed < 0 else seed + comm.get_rank())


def start(
    cfg: CfgNode | DictConfig,
    args: argparse.Namespace,
    early_log: EarlyLog,
    *,
    output: tuple[str, str],
    seed: int,
) -> None:
    """Makes the output folder with its log, its configuration and its environment.

    Args:
        cfg: of which ``config.yaml`` is written. An evaluation writes it into ``inference``: the
            folder's own is the training's.
        args: of detectron2's ``default_argument_parser``.
        early_log: of what was logged until now.
        output: the folder's key, for messages, and the folder.
        seed: below 0 is none.

    Raises:
        ConfigError: (a ValueError) if the folder can't be made or written to.
    """
    key, folder = output
    if args.eval_only:
        folder = os.path.join(folder, "inference")
        cfg = copy.deepcopy(cfg)
        if isinstance(cfg, CfgNode):
            cfg.defrost()
            cfg.OUTPUT_DIR = folder
        else:
            cfg.train.output_dir = folder
    try:
        default_setup(cfg, args)
        # What this package says goes where detectron2's own words go, and on to who else listens.
        own = setup_logger(folder, comm.get_rank(), name="enl_detectron2", abbrev_name="enl")
        own.propagate = True
        if comm.is_main_process() and not args.eval_only:
            write_environment(folder, seed, resumed=args.resume)
    except OSError as error:
        raise ConfigError(f"{key}: {folder} can't be written to: {summarize(error)}") from error
    early_log.write()


def in_fast_layout(model: nn.Module) -> nn.Module:
    """The model in the memory format that suits a CPU's convolutions best."""
    model = model.to(memory_format=torch.channels_last)
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


def own_hooks(seed: int, divergence: StopAtDivergence, unused_key: str) -> Sequence[HookBase]:
    """This project's hooks, which come before detectron2's.

    Args:
        seed: of the run; below 0 is none.
        divergence: of the run.
        unused_key: the key that lets parameters have no part in a step.
    """
    repeatable_steps = [RepeatableSteps(seed)] if seed >= 0 else []
    return [*repeatable_steps, divergence, StopAtUnusedParameters(unused_key)]
