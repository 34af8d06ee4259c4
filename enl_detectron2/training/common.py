"""What runs from YAML and from LazyConfigs have in common, beside detectron2's own parts."""

import argparse
import contextlib
import copy
import fcntl
import logging
import os
import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TextIO

import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.engine import HookBase, create_ddp_model, default_setup
from detectron2.modeling.roi_heads.keypoint_head import BaseKeypointRCNNHead
from detectron2.utils import comm
from detectron2.utils.file_io import PathManager
from detectron2.utils.logger import setup_logger
from omegaconf import DictConfig
from torch import nn

from enl_detectron2.utils.errors import ConfigError

from .data import check_data_sets, register_coco_format
from .data.loader import TrainLoader
from .hooks import FirstSteps, RepeatableSteps
from .resume import warn_of_changes

# What detectron2's evaluators import, by the evaluator type of a set.
PACKAGES = {
    "lvis": ("lvis", "pip install --no-deps lvis"),
    "cityscapes_instance": ("cityscapesscripts", "pip install cityscapesscripts"),
    "cityscapes_sem_seg": ("cityscapesscripts", "pip install cityscapesscripts"),
    "coco_panoptic_seg": (
        "panopticapi",
        "pip install git+https://github.com/cocodataset/panopticapi.git",
    ),
}

COCO_MAX_DETECTIONS = 100  # an image, in COCO's own metrics

logger = logging.getLogger(__name__)
# Open as long as the process lives: closing a file gives up its lock.
_locks: dict[str, TextIO] = {}


def set_up(cfg: CfgNode | DictConfig, args: argparse.Namespace) -> None:
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
        _lock(folder)
        said = _take_up(folder) if args.resume else _set_aside(folder)
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


def _set_aside(folder: str) -> str:
    """Keeps an older run's metrics, its weights and their name from a run that starts.

    Otherwise the two runs' metrics are one file, ``--resume`` takes up the older run if this one
    ends before its first checkpoint, and its end replaces the older one's ``model_final.pth``.
    """
    names = [name for name in ("metrics.json", "last_checkpoint") if Path(folder, name).exists()]
    taken = (int(p.suffix[1:]) for p in Path(folder).glob("*.*") if p.suffix[1:].isdecimal())
    number = max(taken, default=0) + 1
    for name in names:
        Path(folder, name).rename(Path(folder, f"{name}.{number}"))
    weights = Path(folder, "model_final.pth")
    if weights.exists() and not any(map(weights.samefile, Path(folder).glob("model_final.pth.*"))):
        # Under both names, as this run may start from it.
        names.append(weights.name)
        try:
            os.link(weights, f"{weights}.{number}")
        except OSError:  # not on this file system
            shutil.copyfile(weights, f"{weights}.{number}")
    kept = " and ".join(f"{name} as {name}.{number}" for name in names)
    return kept and f"{folder} has an older run, which this one doesn't resume; kept is {kept}"


def _take_up(folder: str) -> str:
    """Takes off the line that a kill or a full disk cut: the next would be written behind it."""
    metrics = Path(folder, "metrics.json")
    content = metrics.read_bytes() if metrics.is_file() else b""
    whole = content.rfind(b"\n") + 1
    if whole == len(content):
        return ""
    os.truncate(metrics, whole)
    return f"{metrics}: its last line was cut, and is left out: {content[whole:]!r}"


def _lock(folder: str) -> None:
    path = os.path.realpath(os.path.join(folder, "training.lock"))
    if path in _locks:
        return
    file = open(path, "w")  # noqa: SIM115  it stays open
    try:
        # Not flock: loaders' workers would inherit that, and hold it longer than their parent.
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        raise ConfigError(
            f"another training is running in {folder}: wait until it has ended, or give this one "
            "an OUTPUT_DIR (in a LazyConfig train.output_dir) of its own"
        ) from None
    except OSError as error:  # as on some network file systems
        logger.warning("%s can't be locked (%s): start one training there only", folder, error)
    _locks[path] = file


def prepare_sets(
    train: Sequence[str],
    test: Sequence[str],
    *,
    coco_format: Sequence[Sequence[str]],
    keypoints: bool,
    output_dir: str,
    **of_model: Any,
) -> None:
    """Registers the sets that a configuration names, and checks all that it trains or tests on.

    Args:
        train, test: as of :func:`require_sets`.
        coco_format, keypoints, output_dir: as of :func:`.data.register_coco_format`.
        of_model: as of :func:`.data.check_data_sets`.

    Raises:
        ConfigError: (a ValueError) that names the set.
    """
    register_coco_format(coco_format, evaluated=test, keypoints=keypoints, output_dir=output_dir)
    require_sets(train, test)
    if comm.get_local_rank() == 0:  # once on each machine, which has files of its own
        check_data_sets(train, test, **of_model)


def require_sets(train: Sequence[str], test: Sequence[str]) -> None:
    """Checks that data sets are registered, and that the packages of their evaluators are there.

    Args:
        train: names of sets to train on.
        test: names of sets to evaluate on, which detectron2 looks up when the training is over.

    Raises:
        ConfigError: (a ValueError) that names the set.
    """
    for key, names in {"DATASETS.TRAIN": train, "DATASETS.TEST": test}.items():
        for name in names:
            if name not in DatasetCatalog:
                raise ConfigError(
                    f"{key} (in a LazyConfig dataset.names) names {name!r}, but no data set of "
                    "this name is registered; is one in DATASETS.COCO_FORMAT missing?"
                )
    for name in test:
        package, command = PACKAGES.get(MetadataCatalog.get(name).get("evaluator_type"), ("", ""))
        if package and find_spec(package) is None:
            raise ConfigError(f"{name!r} can't be evaluated without {package}: {command}")


def class_names(sets: Sequence[str]) -> list[str]:
    """What the first of some sets calls its classes; none if it doesn't say.

    One that is trained on says so once it is loaded.
    """
    return list(MetadataCatalog.get(sets[0]).get("thing_classes", [])) if sets else []


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


def own_hooks(seed: int) -> list[HookBase]:
    """This project's hooks, which come before detectron2's; ``seed`` below 0 is none."""
    hooks = [RepeatableSteps(seed)] if seed >= 0 else []
    return [*hooks, FirstSteps()] if comm.is_main_process() else hooks
