"""Whether a configuration can be right, before anything is read or written.

Each error is one sentence with the key, its value and what would do.
"""

import difflib
import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from detectron2.config import CfgNode, instantiate
from detectron2.data import DatasetCatalog
from detectron2.modeling import (
    BACKBONE_REGISTRY,
    META_ARCH_REGISTRY,
    PROPOSAL_GENERATOR_REGISTRY,
    ROI_HEADS_REGISTRY,
    Backbone,
    build_backbone,
    build_model,
)
from detectron2.solver import build_lr_scheduler
from detectron2.utils import comm
from detectron2.utils.registry import locate
from omegaconf import DictConfig, ListConfig, OmegaConf
from torch import nn

from enl_detectron2.modeling.build import check_registered

from .check_rules import LAZY_RULES, YAML_RULES
from .data.loader import check_on_bad_image
from .errors import ConfigError

# Read by detectron2's default_setup and this project's engine, whether a configuration has them.
LAZY_EXTRA = ("train.seed", "train.cudnn_benchmark", "train.on_bad_image")
GROUPS_OF_GN = 32  # in detectron2


def check_yaml(cfg: CfgNode, *, eval_only: bool = False) -> None:
    """Checks a configuration from YAML; its data sets must be registered.

    Args:
        cfg: with the project's keys.
        eval_only: whether nothing is trained, so that there need be no training set.

    Raises:
        ConfigError: (a ValueError) at the first thing that is wrong.
    """
    for key, (expected, fits) in YAML_RULES.items():
        _check(key, _value(cfg, key), expected, fits)
    for registry, key in (
        (META_ARCH_REGISTRY, "MODEL.META_ARCHITECTURE"),
        (BACKBONE_REGISTRY, "MODEL.BACKBONE.NAME"),
        (ROI_HEADS_REGISTRY, "MODEL.ROI_HEADS.NAME"),
    ):
        check_registered(registry, _value(cfg, key), key)
    if cfg.MODEL.PROPOSAL_GENERATOR.NAME != "PrecomputedProposals":
        name = cfg.MODEL.PROPOSAL_GENERATOR.NAME
        check_registered(PROPOSAL_GENERATOR_REGISTRY, name, "MODEL.PROPOSAL_GENERATOR.NAME")
    check_on_bad_image("DATALOADER.ON_BAD_IMAGE", cfg.DATALOADER.ON_BAD_IMAGE)
    for norm, channels in (
        ("FPN.NORM", "FPN.OUT_CHANNELS"),
        ("RESNETS.NORM", "RESNETS.STEM_OUT_CHANNELS"),
        ("RESNETS.NORM", "RESNETS.RES2_OUT_CHANNELS"),
        ("ROI_BOX_HEAD.NORM", "ROI_BOX_HEAD.CONV_DIM"),
    ):
        key = f"MODEL.{channels}"
        _check_groups(_value(cfg, f"MODEL.{norm}"), key, _value(cfg, key))
    low, high = cfg.MODEL.RPN.IOU_THRESHOLDS[0], cfg.MODEL.RPN.IOU_THRESHOLDS[-1]
    if not 0 <= low <= high <= 1:
        raise ConfigError(
            "MODEL.RPN.IOU_THRESHOLDS must be two ascending numbers from 0 to 1, got "
            f"{cfg.MODEL.RPN.IOU_THRESHOLDS!r}"
        )
    for key in ("MODEL.PIXEL_MEAN", "MODEL.PIXEL_STD"):
        if len(_value(cfg, key)) != (1 if cfg.INPUT.FORMAT == "L" else 3):
            raise ConfigError(
                f"{key} must have a number for each colour of INPUT.FORMAT {cfg.INPUT.FORMAT!r}, "
                f"got {_value(cfg, key)!r}"
            )
    # With a reference, detectron2 fits the batch to the number of processes.
    processes = cfg.SOLVER.REFERENCE_WORLD_SIZE or comm.get_world_size()
    _check_batch_size("SOLVER.IMS_PER_BATCH", cfg.SOLVER.IMS_PER_BATCH, processes)
    if not eval_only:
        _check_data_set_names("DATASETS.TRAIN", cfg.DATASETS.TRAIN, required=True)
    _check_data_set_names("DATASETS.TEST", cfg.DATASETS.TEST, required=eval_only)


def check_yaml_model(cfg: CfgNode, build_optimizer: Callable[[CfgNode, nn.Module], Any]) -> None:
    """Builds the model and its optimizer once, on the CPU, to see whether they can be built.

    Args:
        cfg: as :func:`check_yaml` has approved it.
        build_optimizer: of the trainer.

    Raises:
        ConfigError: (a ValueError) if not, because of the configuration.
    """
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.DEVICE = "cpu"
    try:
        model = build_model(cfg)
    except ConfigError:
        raise
    except Exception:
        _check_features(cfg)
        raise
    build_lr_scheduler(cfg, build_optimizer(cfg, model))


def check_lazy(cfg: DictConfig) -> None:
    """Checks a LazyConfig, and builds its model once, on the CPU, to see whether it can be built.

    Raises:
        ConfigError: (a ValueError) at the first thing that is wrong.
    """
    for part in ("model", "dataloader", "optimizer", "lr_multiplier", "train"):
        if part not in cfg:
            raise ConfigError(f"the configuration has no {part!r}, which a LazyConfig must define")
    for key, (expected, fits) in LAZY_RULES.items():
        value = OmegaConf.select(cfg, key)
        # Not each model and optimizer has each of these arguments.
        if value is not None:
            _check(key, value, expected, fits)
    check_on_bad_image("train.on_bad_image", cfg.train.get("on_bad_image", "stop"))
    for part in ("model", "dataloader", "optimizer", "lr_multiplier"):
        _check_calls(cfg[part], part)
    if "backbone" in cfg.model and "out_channels" in cfg.model.backbone:
        backbone = cfg.model.backbone
        norm = backbone.get("norm", "")
        _check_groups(norm, "model.backbone.out_channels", backbone.out_channels)
    key = "dataloader.train.total_batch_size"
    size = OmegaConf.select(cfg, key, default=0)  # 0 beside a size per process
    _check_batch_size(key, size, comm.get_world_size())
    for part in ("train", "test"):
        key = f"dataloader.{part}.dataset.names"
        names = OmegaConf.select(cfg, key)
        if names is not None:
            _check_data_set_names(key, [names] if isinstance(names, str) else names, required=True)
    if "backbone" in cfg.model:
        try:
            _check_lazy_features(cfg)
        except ConfigError as error:
            raise ConfigError(f"model.backbone: {error}") from error
    instantiate(cfg.model)


def check_lazy_overrides(cfg: DictConfig, opts: Sequence[str]) -> None:
    """Checks that the overrides name keys that there are, or arguments that a call takes.

    Args:
        cfg: as loaded from the file, without the overrides.
        opts: the overrides, key=value.

    Raises:
        ConfigError: (a ValueError) if something else is named.
    """
    for option in opts:
        key, _, value = option.partition("=")
        key = key.lstrip("+")
        if key not in LAZY_EXTRA:
            _check_override(cfg, key, value)


def _check_override(cfg: DictConfig, key: str, value: str) -> None:
    node, path = cfg, ""
    for name in key.split("."):
        if isinstance(node, ListConfig) and name.isdigit() and int(name) < len(node):
            name = int(name)
        elif not isinstance(node, DictConfig) or name not in node:
            arguments = _arguments(node)
            if arguments is not None:
                _check_argument(path, name, value, node, arguments)
                return
            known = ", ".join(map(str, node)) if isinstance(node, DictConfig) else "no keys"
            raise ConfigError(
                f"{key} can't be set to {value!r}: {path or 'the configuration'} has {known}"
            )
        node, path = node[name], f"{path}.{name}".lstrip(".")


def _value(cfg: CfgNode, key: str) -> Any:
    for name in key.split("."):
        cfg = cfg[name]
    return cfg


def _check(key: str, value: Any, expected: str, fits: Callable[[Any], bool]) -> None:
    if not fits(value):
        shown = OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
        raise ConfigError(f"{key} must be {expected}, got {shown!r}")


def _check_groups(norm: Any, key: str, channels: int) -> None:
    if norm == "GN" and channels % GROUPS_OF_GN:
        raise ConfigError(
            f"{key} must be a multiple of {GROUPS_OF_GN} with the norm 'GN', which has "
            f"{GROUPS_OF_GN} groups, got {channels}"
        )


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


def _check_features(cfg: CfgNode) -> None:
    """Looks for the reason why a model can't be built in what its heads read."""
    levels = build_backbone(cfg).output_shape()
    is_retinanet = cfg.MODEL.META_ARCHITECTURE == "RetinaNet"
    nodes = ("RETINANET",) if is_retinanet else ("RPN", "ROI_HEADS")
    for node in nodes:
        key, names = f"MODEL.{node}.IN_FEATURES", cfg.MODEL[node].IN_FEATURES
        _check_levels(key, names, levels)
        if node == "ROI_HEADS":
            strides = [levels[name].stride for name in names]
            if strides != [strides[0] << index for index in range(len(strides))]:
                raise ConfigError(
                    f"{key} must name levels that follow each other, from high to low resolution, "
                    f"got {list(names)!r}"
                )
            continue
        for part in ("SIZES", "ASPECT_RATIOS"):
            lists = cfg.MODEL.ANCHOR_GENERATOR[part]
            if len(lists) not in (1, len(names)):
                raise ConfigError(
                    f"MODEL.ANCHOR_GENERATOR.{part} must hold one list, or one for each of the "
                    f"{len(names)} members of {key}, got {lists!r}"
                )


def _check_lazy_features(cfg: DictConfig) -> None:
    backbone = instantiate(cfg.model.backbone)
    if not isinstance(backbone, Backbone):
        return
    levels = backbone.output_shape()
    for key in (
        "model.proposal_generator.in_features",
        "model.roi_heads.box_in_features",
        "model.roi_heads.mask_in_features",
        "model.head_in_features",
    ):
        names = OmegaConf.select(cfg, key)
        if names is not None:
            _check_levels(key, names, levels)


def _check_levels(key: str, names: Sequence[str], levels: Sequence[str]) -> None:
    unknown = [name for name in names if name not in levels]
    if unknown:
        raise ConfigError(
            f"{key} names {', '.join(map(repr, unknown))}, but the backbone has only "
            f"{', '.join(levels)}"
        )


def _arguments(node: Any) -> dict[str, inspect.Parameter] | None:
    """Those of the call that a node of a LazyConfig stands for; None if it is no call."""
    if not isinstance(node, DictConfig) or "_target_" not in node:
        return None
    target = node["_target_"]
    target = locate(target) if isinstance(target, str) else target
    try:
        return dict(inspect.signature(target).parameters)
    except (TypeError, ValueError):  # not every callable of C code has a signature
        return None


def _check_argument(
    path: str, name: str, value: Any, node: DictConfig, arguments: dict[str, inspect.Parameter]
) -> None:
    kinds = [argument.kind for argument in arguments.values()]
    if name not in arguments and inspect.Parameter.VAR_KEYWORD not in kinds:
        target = node["_target_"]
        raise ConfigError(
            f"{path}.{name} is no argument of {getattr(target, '__name__', target)}, got "
            f"{value!r}; it takes {', '.join(arguments)}"
        )


def _calls(node: Any, path: str) -> Iterator[tuple[str, DictConfig]]:
    if isinstance(node, DictConfig):
        if "_target_" in node:
            yield path, node
        for key in node:
            if not OmegaConf.is_missing(node, key) and OmegaConf.is_config(node._get_node(key)):
                yield from _calls(node[key], f"{path}.{key}")
    elif isinstance(node, ListConfig):
        for index, element in enumerate(node):
            yield from _calls(element, f"{path}.{index}")


def _check_calls(cfg: Any, path: str) -> None:
    for where, node in _calls(cfg, path):
        target = node["_target_"]
        if isinstance(target, str) and _locate(target) is None:
            raise ConfigError(f"{where}._target_ must name a class or function, got {target!r}")
        arguments = _arguments(node)
        for name in node:
            if arguments is not None and name != "_target_":
                _check_argument(where, name, node.get(name), node, arguments)


def _locate(name: str) -> Any:
    try:
        return locate(name)
    except Exception:
        return None
