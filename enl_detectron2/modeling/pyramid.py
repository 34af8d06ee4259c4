"""What a pyramid can be made of: its levels, those that get a block, its top block."""

import logging
from collections.abc import Iterable, Mapping, Sequence

from detectron2.config import CfgNode
from detectron2.modeling import Backbone
from detectron2.modeling.backbone.fpn import LastLevelMaxPool, LastLevelP6P7
from torch import nn

from enl_detectron2.layers.relation_block import InvalidOption, check_choice

logger = logging.getLogger(__name__)


def check_names(option: str, names: Iterable[str], available: Iterable[str]) -> None:
    """Raises InvalidOption unless all ``names`` are ``available``."""
    available = list(available)
    if unknown := ", ".join(name for name in names if name not in available):
        problem = f"names {unknown}, but only {', '.join(available)} can be used here"
        raise InvalidOption(option, problem)


def pyramid_levels(bottom_up: Backbone, in_features: Sequence[str]) -> dict[str, int]:
    """k of each feature's level p<k>, at stride 2^k; InvalidOption unless they count up by one."""
    if not isinstance(bottom_up, Backbone):
        kind = type(bottom_up).__name__
        raise InvalidOption("bottom_up", f"must be a detectron2 Backbone, got a {kind}")
    shapes = bottom_up.output_shape()
    check_names("in_features", in_features, shapes)
    strides = {name: int(shapes[name].stride) for name in in_features}
    levels = {name: stride.bit_length() - 1 for name, stride in strides.items()}
    finest = min(levels.values(), default=0)
    if not levels or list(strides.values()) != [1 << (finest + i) for i in range(len(levels))]:
        expected = "must name features whose strides are powers of 2, each twice the one before"
        found = ", ".join(f"{name} at {stride}" for name, stride in strides.items()) or "none"
        raise InvalidOption("in_features", f"{expected}; got {found}")
    return levels


def features_with_blocks(levels: Mapping[str, int], features: Sequence[str] | None) -> list[str]:
    """The features whose level gets a block: those that are named, or all at stride 8 and above."""
    check_names("block_features", features or [], levels)
    chosen = list(features or [name for name, k in levels.items() if k >= 3])
    if not chosen:
        problem = f"none of {', '.join(levels)} is at stride 8 or above, which an empty list means"
        raise InvalidOption("block_features", f"must name the levels that get a block: {problem}")
    return chosen


def build_top_block(
    cfg: CfgNode, bottom_up: Backbone, levels: Mapping[str, int]
) -> nn.Module | None:
    """What extends the pyramid beyond its coarsest level, as MODEL.ENL_FPN.TOP_BLOCK names it."""
    name, source = cfg.MODEL.ENL_FPN.TOP_BLOCK, cfg.MODEL.ENL_FPN.TOP_BLOCK_IN_FEATURE
    check_choice("top_block", name, ("LastLevelMaxPool", "LastLevelP6P7", ""))
    if name == "LastLevelMaxPool":
        beyond = f"p{max(levels.values()) + 2}"
        if cfg.MODEL.META_ARCHITECTURE == "RetinaNet" and beyond in cfg.MODEL.RETINANET.IN_FEATURES:
            problem = f"must be 'LastLevelP6P7' if MODEL.RETINANET.IN_FEATURES names {beyond}"
            raise InvalidOption("top_block", problem)
        return LastLevelMaxPool()
    if name == "LastLevelP6P7":
        source, width = source or cfg.MODEL.FPN.IN_FEATURES[-1], cfg.MODEL.FPN.OUT_CHANNELS
        shapes = bottom_up.output_shape()
        channels = shapes[source].channels if source in shapes else width
        return LastLevelP6P7(channels, width, in_feature=source)
    return None


def reads_bottom_up(
    top_block: nn.Module | None, bottom_up: Backbone, levels: Mapping[str, int]
) -> bool:
    """Whether the top block reads a feature of the bottom-up network, not a level of the pyramid.

    A feature goes before the level of the same name, as in detectron2. The max-pool is made to read
    the coarsest level: detectron2 fixes it to p5, which may be none, or a feature of Swin's.
    """
    if top_block is None:
        return False
    if isinstance(top_block, LastLevelMaxPool):
        top_block.in_feature = f"p{max(levels.values())}"
        return False
    features, own = list(bottom_up.output_shape()), [f"p{k}" for k in levels.values()]
    check_names("top_block.in_feature", [str(top_block.in_feature)], features + own)
    return top_block.in_feature in features


def warn_of_black_padding(pixel_mean: Sequence[float]) -> None:
    """Warns if pixels, such as black bars, may be normalised to exactly what padding is."""
    if all(float(value).is_integer() for value in pixel_mean):
        logger.warning(
            "Pixels of the colour MODEL.PIXEL_MEAN %s become exactly zero, as padding is, so a "
            "border of them passes for padding. Set it to fractions, such as %s, or "
            "MODEL.ENL_FPN.ATTEND_TO_PADDING True.",
            list(pixel_mean),
            [float(value) + 0.5 for value in pixel_mean],
        )
