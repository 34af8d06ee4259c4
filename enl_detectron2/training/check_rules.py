"""What values the keys of a configuration may have, each key by itself."""

import math
from collections.abc import Callable
from numbers import Real
from typing import Any

import torch
from omegaconf import ListConfig


def _whole(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def _all(check: Callable[[Any], bool], least: int = 1) -> Callable[[Any], bool]:
    return lambda value: (
        isinstance(value, (list, tuple, ListConfig))
        and len(value) >= least
        and all(check(element) for element in value)
    )


def _one_of(*choices: Any) -> tuple[str, Callable[[Any], bool]]:
    return "one of " + ", ".join(map(repr, choices)), lambda value: value in choices


def _is_device(value: Any) -> bool:
    try:
        device = torch.device(value)
    except (RuntimeError, TypeError):
        return False
    if device.type == "cuda":
        return (device.index or 0) < torch.cuda.device_count()
    return device.type in ("cpu", "mps", "xpu")


# What would do, as it follows "must be", and whether a value does.
POSITIVE = ("a whole number of at least 1", lambda value: _whole(value, 1))
COUNT = ("a whole number of at least 0", lambda value: _whole(value, 0))
ABOVE_0 = ("a number above 0", lambda value: _number(value) and value > 0)
FROM_0 = ("a number of at least 0", lambda value: _number(value) and value >= 0)
FRACTION = ("a number from 0 to 1", lambda value: _number(value) and 0 <= value <= 1)
BELOW_1 = ("a number of at least 0 and below 1", lambda value: _number(value) and 0 <= value < 1)
NAMES = ("a list of names", _all(lambda value: isinstance(value, str)))
SIZES = ("a list of whole numbers of at least 0", _all(lambda value: _whole(value, 0)))
# Those of detectron2's get_norm.
NORM = _one_of(
    "", "BN", "SyncBN", "FrozenBN", "GN", "LN", "nnSyncBN", "naiveSyncBN", "naiveSyncBN_N"
)
COLORS = ("three numbers, or one of grey images", lambda v: _all(_number)(v) and len(v) in (1, 3))
SPREADS = (
    "three numbers above 0, or one of grey images",
    lambda v: _all(lambda spread: _number(spread) and spread > 0)(v) and len(v) in (1, 3),
)
STEPS = (
    "iterations above 0, in ascending order",
    lambda value: _all(lambda step: _whole(step, 1), 0)(value) and list(value) == sorted(value),
)
LEVEL_LISTS = (
    "a list of lists of numbers above 0",
    _all(_all(lambda value: _number(value) and value > 0)),
)
DEVICE = ("a device that this PyTorch and machine have, such as 'cpu' or 'cuda'", _is_device)

_RULES = {
    POSITIVE: """
        MODEL.FPN.OUT_CHANNELS MODEL.ROI_HEADS.NUM_CLASSES MODEL.RETINANET.NUM_CLASSES
        MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE MODEL.RPN.BATCH_SIZE_PER_IMAGE
        MODEL.RPN.PRE_NMS_TOPK_TRAIN MODEL.RPN.PRE_NMS_TOPK_TEST MODEL.RPN.POST_NMS_TOPK_TRAIN
        MODEL.RPN.POST_NMS_TOPK_TEST MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION
        MODEL.RESNETS.STEM_OUT_CHANNELS MODEL.RESNETS.RES2_OUT_CHANNELS MODEL.RESNETS.NUM_GROUPS
        MODEL.RESNETS.WIDTH_PER_GROUP MODEL.ENL_FPN.NUM_FREQUENCIES
        MODEL.NON_LOCAL_RESNET.NUM_FREQUENCIES SOLVER.IMS_PER_BATCH SOLVER.MAX_ITER
        SOLVER.CHECKPOINT_PERIOD INPUT.MAX_SIZE_TRAIN INPUT.MAX_SIZE_TEST
    """,
    COUNT: """
        DATALOADER.NUM_WORKERS TEST.EVAL_PERIOD SOLVER.WARMUP_ITERS INPUT.MIN_SIZE_TEST
        MODEL.ROI_BOX_HEAD.NUM_FC MODEL.ROI_BOX_HEAD.NUM_CONV SOLVER.REFERENCE_WORLD_SIZE
        MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO
    """,
    ABOVE_0: """
        SOLVER.BASE_LR SOLVER.GAMMA MODEL.ENL_FPN.L1_SCALE MODEL.NON_LOCAL_RESNET.L1_SCALE
        MODEL.ENL_FPN.INIT_STD MODEL.NON_LOCAL_RESNET.INIT_STD
    """,
    FROM_0: "SOLVER.WEIGHT_DECAY SOLVER.BIAS_LR_FACTOR SOLVER.WARMUP_FACTOR",
    FRACTION: """
        MODEL.RPN.POSITIVE_FRACTION MODEL.ROI_HEADS.POSITIVE_FRACTION MODEL.RPN.NMS_THRESH
        MODEL.ROI_HEADS.NMS_THRESH_TEST MODEL.ROI_HEADS.SCORE_THRESH_TEST
        MODEL.RETINANET.SCORE_THRESH_TEST MODEL.RETINANET.NMS_THRESH_TEST
    """,
    BELOW_1: "SOLVER.MOMENTUM",
    NAMES: """
        MODEL.FPN.IN_FEATURES MODEL.RESNETS.OUT_FEATURES MODEL.RPN.IN_FEATURES
        MODEL.ROI_HEADS.IN_FEATURES MODEL.RETINANET.IN_FEATURES
    """,
    SIZES: "INPUT.MIN_SIZE_TRAIN",
    NORM: "MODEL.FPN.NORM MODEL.RESNETS.NORM MODEL.ROI_BOX_HEAD.NORM",
    LEVEL_LISTS: "MODEL.ANCHOR_GENERATOR.SIZES MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS",
    STEPS: "SOLVER.STEPS",
    COLORS: "MODEL.PIXEL_MEAN",
    SPREADS: "MODEL.PIXEL_STD",
    DEVICE: "MODEL.DEVICE",
    _one_of(18, 34, 50, 101, 152): "MODEL.RESNETS.DEPTH",
    _one_of(0, 1, 2, 3, 4, 5): "MODEL.BACKBONE.FREEZE_AT",
    _one_of(1, 2): "MODEL.RESNETS.RES5_DILATION",
    _one_of("sum", "avg"): "MODEL.FPN.FUSE_TYPE",
    _one_of("SGD", "AdamW"): "SOLVER.OPTIMIZER",
    _one_of(
        "WarmupMultiStepLR", "WarmupCosineLR", "WarmupStepWithFixedGammaLR"
    ): "SOLVER.LR_SCHEDULER_NAME",
    _one_of("linear", "constant"): "SOLVER.WARMUP_METHOD",
    _one_of("value", "norm"): "SOLVER.CLIP_GRADIENTS.CLIP_TYPE",
    _one_of("choice", "range"): "INPUT.MIN_SIZE_TRAIN_SAMPLING",
    _one_of("horizontal", "vertical", "none"): "INPUT.RANDOM_FLIP",
    _one_of("BGR", "RGB", "L"): "INPUT.FORMAT",
    _one_of(
        "TrainingSampler",
        "RepeatFactorTrainingSampler",
        "RandomSubsetTrainingSampler",
        "WeightedTrainingSampler",
        "WeightedCategoryTrainingSampler",
    ): "DATALOADER.SAMPLER_TRAIN",
}
YAML_RULES = {key: rule for rule, keys in _RULES.items() for key in keys.split()}
LAZY_RULES = {
    "train.max_iter": POSITIVE,
    "train.eval_period": COUNT,
    "train.log_period": POSITIVE,
    "train.checkpointer.period": POSITIVE,
    "train.device": DEVICE,
    "dataloader.train.total_batch_size": POSITIVE,
    "dataloader.train.num_workers": COUNT,
    "dataloader.test.num_workers": COUNT,
    "optimizer.lr": ABOVE_0,
    "optimizer.momentum": BELOW_1,
    "optimizer.weight_decay": FROM_0,
    "model.backbone.out_channels": POSITIVE,
    "model.backbone.norm": NORM,
    "model.backbone.fuse_type": _one_of("sum", "avg"),
    "model.backbone.in_features": NAMES,
    "model.roi_heads.num_classes": POSITIVE,
    "model.num_classes": POSITIVE,
    "model.pixel_mean": COLORS,
    "model.pixel_std": SPREADS,
}
