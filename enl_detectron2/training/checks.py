"""Names, data sets and this project's own keys, before anything is read or written.

Each error is one sentence with the key, its value and what would be right. What detectron2 checks
by itself is left to it: see :func:`.building.building`.
"""

import difflib
from collections.abc import Sequence

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import (
    BACKBONE_REGISTRY,
    META_ARCH_REGISTRY,
    PROPOSAL_GENERATOR_REGISTRY,
    ROI_HEADS_REGISTRY,
    Backbone,
)
from detectron2.utils import comm
from omegaconf import DictConfig, ListConfig, OmegaConf
from torch import nn

from enl_detectron2.utils.errors import ConfigError

from .data.coco_file import read_coco
from .data.coco_format import coco_format_of, keypoint_names
from .data.images import check_deep_images
from .data.loader import check_on_bad_image

REGISTRIES = {
    "MODEL.META_ARCHITECTURE": META_ARCH_REGISTRY,
    "MODEL.BACKBONE.NAME": BACKBONE_REGISTRY,
    "MODEL.PROPOSAL_GENERATOR.NAME": PROPOSAL_GENERATOR_REGISTRY,
    "MODEL.ROI_HEADS.NAME": ROI_HEADS_REGISTRY,
}
LEVELS = (
    "model.proposal_generator.in_features",
    "model.roi_heads.box_in_features",
    "model.roi_heads.mask_in_features",
    "model.roi_heads.keypoint_in_features",
    "model.head_in_features",
)
COCO_KEYPOINTS = 17  # for which pycocotools has sigmas of its own


def check_yaml(cfg: CfgNode, *, eval_only: bool = False) -> None:
    """Checks a configuration from YAML; its data sets must be registered.

    Args:
        cfg: with the project's keys.
        eval_only: whether nothing is trained, so that there need be no training set.

    Raises:
        ConfigError: (a ValueError) at the first thing that is wrong.
    """
    check_on_bad_image("DATALOADER.ON_BAD_IMAGE", cfg.DATALOADER.ON_BAD_IMAGE)
    check_deep_images("DATALOADER.DEEP_IMAGES", cfg.DATALOADER.DEEP_IMAGES)
    _check_period("SOLVER.CHECKPOINT_PERIOD", cfg.SOLVER.CHECKPOINT_PERIOD)
    _check_amp("SOLVER.AMP.ENABLED", cfg.SOLVER.AMP.ENABLED and not eval_only, cfg.MODEL.DEVICE)
    # With a reference, detectron2 fits the batch to the number of processes.
    processes = cfg.SOLVER.REFERENCE_WORLD_SIZE or comm.get_world_size()
    _check_batch_size("SOLVER.IMS_PER_BATCH", cfg.SOLVER.IMS_PER_BATCH, processes)
    if not eval_only:
        _check_data_set_names("DATASETS.TRAIN", cfg.DATASETS.TRAIN, required=True)
    _check_data_set_names("DATASETS.TEST", cfg.DATASETS.TEST, required=eval_only)
    for name in cfg.DATASETS.TEST:
        require_coco_type(name)  # now, not when the training is over
    heads = cfg.MODEL.ROI_KEYPOINT_HEAD
    sigmas = cfg.TEST.KEYPOINT_OKS_SIGMAS
    evaluated = len(sigmas) or COCO_KEYPOINTS
    if cfg.MODEL.KEYPOINT_ON and cfg.DATASETS.TEST and evaluated != heads.NUM_KEYPOINTS:
        raise ConfigError(
            f"TEST.KEYPOINT_OKS_SIGMAS must hold {heads.NUM_KEYPOINTS} numbers, one for each of "
            f"MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS, got {list(sigmas)!r}"
        )


def explain_names(cfg: CfgNode) -> None:
    """Looks for the reason why a model couldn't be built in the names of its parts.

    Raises:
        ConfigError: (a ValueError) if one of them isn't registered.
    """
    for key, registry in REGISTRIES.items():
        name = _value(cfg, key)
        if name not in registry and name != "PrecomputedProposals":  # which needs no generator
            known = [registered for registered, _ in registry]
            near = difflib.get_close_matches(str(name), known, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ConfigError(
                f"{key} must name one of {', '.join(sorted(known))}; got {name!r}{hint}"
            )


def require_coco_type(dataset_name: str) -> None:
    """Raises ConfigError, a ValueError, if a set isn't evaluated by COCO's metrics."""
    kind = MetadataCatalog.get(dataset_name).get("evaluator_type")
    if kind != "coco":
        raise ConfigError(
            f"DATASETS.TEST: {dataset_name!r} has the evaluator type {kind!r}; "
            "this trainer evaluates sets of type 'coco'"
        )


def check_lazy(cfg: DictConfig, *, eval_only: bool = False) -> None:
    """Checks a LazyConfig; its data sets must be registered.

    Args:
        cfg: with all overrides.
        eval_only: whether nothing is trained, so that there need be no training set.

    Raises:
        ConfigError: (a ValueError) at the first thing that is wrong.
    """
    for part in ("model", "dataloader", "optimizer", "lr_multiplier", "train"):
        if part not in cfg:
            raise ConfigError(f"the configuration has no {part!r}, which a LazyConfig must define")
    check_on_bad_image("train.on_bad_image", cfg.train.get("on_bad_image", "stop"))
    check_deep_images("train.deep_images", cfg.train.get("deep_images", "refuse"))
    _check_period("train.checkpointer.period", cfg.train.checkpointer.period)
    _check_amp("train.amp.enabled", cfg.train.amp.enabled and not eval_only, cfg.train.device)
    key = "dataloader.train.total_batch_size"
    size = OmegaConf.select(cfg, key, default=0)  # 0 beside a size per process
    _check_batch_size(key, size, comm.get_world_size())
    for part in ("test",) if eval_only else ("train", "test"):
        names = lazy_names(cfg, part)
        if names is not None:
            _check_data_set_names(f"dataloader.{part}.dataset.names", names, required=True)


def lazy_names(cfg: DictConfig, part: str) -> list[str] | None:
    """The data sets of ``dataloader.train`` or ``.test``; None if it is another kind of loader."""
    names = OmegaConf.select(cfg, f"dataloader.{part}.dataset.names")
    if isinstance(names, str):
        return [names]
    return list(names) if isinstance(names, ListConfig) else None


def check_levels(cfg: DictConfig, model: nn.Module) -> None:
    """Checks that heads read what the backbone gives, which a LazyConfig's find out in a step.

    Raises:
        ConfigError: (a ValueError) if a level isn't there.
    """
    if not isinstance(getattr(model, "backbone", None), Backbone):
        return
    levels = model.backbone.output_shape()
    for key in LEVELS:
        unknown = [name for name in OmegaConf.select(cfg, key) or () if name not in levels]
        if unknown:
            raise ConfigError(
                f"{key} names {', '.join(map(repr, unknown))}, but the backbone has only "
                f"{', '.join(levels)}"
            )


def check_keypoints(names: Sequence[str], number: int) -> None:
    """Checks that sets in COCO format have the keypoints of the model.

    Args:
        names: of registered sets, of which others are left alone.
        number: of keypoints.

    Raises:
        ConfigError: (a ValueError) if not.
    """
    for name in dict.fromkeys(names):
        files = coco_format_of(name)
        if files is None:
            continue
        listed = keypoint_names(read_coco(files[0]))
        if not listed:
            raise ConfigError(
                f"{name!r} can't be used for keypoints: no category of {files[0]} lists 'keypoints'"
            )
        if len(listed) != number:
            raise ConfigError(
                f"MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS must be {len(listed)}, the number of "
                f"keypoints in {name!r}, got {number}"
            )


def _value(cfg: CfgNode, key: str):
    for name in key.split("."):
        cfg = cfg[name]
    return cfg


def _check_period(key: str, period: int) -> None:
    if period < 1:  # detectron2 divides by it, when the first step is over
        raise ConfigError(f"{key} must be at least 1, got {period}")


def _check_amp(key: str, enabled: bool, device: str) -> None:
    if enabled and str(device).split(":")[0] != "cuda":
        raise ConfigError(f"{key} must be False on {device}: detectron2 needs a CUDA GPU for it")


def _check_batch_size(key: str, size: int, processes: int) -> None:
    if size % processes:
        raise ConfigError(
            f"{key} must be a multiple of the number of processes, {processes}, got {size}"
        )


def _check_data_set_names(key: str, names: Sequence[str], *, required: bool) -> None:
    if required and not names:
        raise ConfigError(f"{key} must name at least one data set, got {names!r}")
    known = DatasetCatalog.list()
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            raise ConfigError(
                f"{key} names {name!r}, but no data set of this name is registered; "
                + (f"did you mean {near[0]}, or is " if near else "is ")
                + "one in DATASETS.COCO_FORMAT missing?"
            )
