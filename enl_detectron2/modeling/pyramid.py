"""What a pyramid can be made of: its strides, the levels that get a block, its top block."""

import logging
import math
from collections.abc import Mapping, Sequence

from detectron2.config import CfgNode
from detectron2.modeling import Backbone
from detectron2.modeling.backbone.fpn import LastLevelMaxPool, LastLevelP6P7
from torch import nn

from enl_detectron2.layers.relation_block import check_choice

logger = logging.getLogger(__name__)


def level_name(stride: int) -> str:
    return f"p{int(math.log2(stride))}"


def block_name(stride: int) -> str:
    return f"fpn_relation{int(math.log2(stride))}"


def check_features(key: str, features: Sequence[str], available: Sequence[str]) -> None:
    unknown = [feature for feature in features if feature not in available]
    if unknown:
        raise ValueError(
            f"{key} names {', '.join(unknown)}, but only {', '.join(available)} can be used here"
        )


def pyramid_strides(bottom_up: Backbone, in_features: Sequence[str], key: str) -> dict[str, int]:
    """The strides of the pyramid's features; ValueError unless each is twice the one before it."""
    if not isinstance(bottom_up, Backbone):
        raise ValueError(
            f"the bottom-up network must be a detectron2 Backbone, got a {type(bottom_up).__name__}"
        )
    shapes = bottom_up.output_shape()
    check_features(key, in_features, list(shapes))
    strides = {name: int(shapes[name].stride) for name in in_features}
    values = list(strides.values())
    doubling = values and values == [values[0] << index for index in range(len(values))]
    if not doubling or values[0].bit_count() != 1:
        found = ", ".join(f"{name} at {stride}" for name, stride in strides.items()) or "none"
        raise ValueError(
            f"{key} must name features from high to low resolution, their strides powers of 2, "
            f"each twice the one before; got {found}"
        )
    return strides


def levels_with_blocks(
    strides: Mapping[str, int], block: str, features: Sequence[str] | None, key: str
) -> list[str]:
    """The features whose level gets a block."""
    if features:
        check_features(key, features, list(strides))
        return list(features)
    features = [name for name, stride in strides.items() if stride >= 8]
    if block and not features:
        raise ValueError(
            f"{key} must name the levels that get a block, as none of {', '.join(strides)} has the "
            "stride 8 or more that is meant without it"
        )
    return features


def reads_bottom_up(
    top_block: nn.Module | None, bottom_up: Backbone, strides: Mapping[str, int]
) -> bool:
    """Whether the top block reads a feature of the bottom-up network, not a level of the pyramid.

    Swin's features, too, are called p<k>: for any block but the max-pool a bottom-up feature goes
    before the level of the same name, as in detectron2.
    """
    if top_block is None:
        return False
    source, features = str(top_block.in_feature), list(bottom_up.output_shape())
    levels = [level_name(stride) for stride in strides.values()]
    check_features("top_block.in_feature", [source], features + levels)
    return source in features and not isinstance(top_block, LastLevelMaxPool)


def build_top_block(
    cfg: CfgNode, bottom_up: Backbone, strides: Mapping[str, int]
) -> nn.Module | None:
    """What extends the pyramid beyond its coarsest level, as MODEL.ENL_FPN.TOP_BLOCK names it."""
    name, source = cfg.MODEL.ENL_FPN.TOP_BLOCK, cfg.MODEL.ENL_FPN.TOP_BLOCK_IN_FEATURE
    check_choice("MODEL.ENL_FPN.TOP_BLOCK", name, ("LastLevelMaxPool", "LastLevelP6P7", ""))
    if name == "LastLevelMaxPool":
        if cfg.MODEL.META_ARCHITECTURE == "RetinaNet":
            levels = [level_name(s) for stride in strides.values() for s in (stride, 2 * stride)]
            key = "MODEL.ENL_FPN.TOP_BLOCK must be 'LastLevelP6P7' if MODEL.RETINANET.IN_FEATURES"
            check_features(key, cfg.MODEL.RETINANET.IN_FEATURES, levels)
        return LastLevelMaxPool()
    if name == "LastLevelP6P7":
        source, width = source or cfg.MODEL.FPN.IN_FEATURES[-1], cfg.MODEL.FPN.OUT_CHANNELS
        shapes = bottom_up.output_shape()
        channels = shapes[source].channels if source in shapes else width
        return LastLevelP6P7(channels, width, in_feature=source)
    return None


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
