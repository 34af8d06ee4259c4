"""A feature pyramid whose top-down stream passes through relation blocks."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from detectron2.modeling.backbone.fpn import FPN
from torch import Tensor, nn

from enl_detectron2.layers import EmptyBlock, image_extent, map_extent
from enl_detectron2.layers.relation_block import check_choice

from .build import (
    as_relation_block,
    block_arguments,
    build_relation_block,
    config_node,
    naming_keys,
)
from .pyramid import (
    build_top_block,
    features_with_blocks,
    pyramid_levels,
    reads_bottom_up,
    warn_of_black_padding,
)


@BACKBONE_REGISTRY.register()
class ENL_FPN(FPN):
    """detectron2's FPN, refined coarse to fine by one relation block a level.

    Each level's merged map (lateral + upsampled coarser map; the coarsest level's lateral alone)
    passes through its block before anything else reads it: both the level's 3×3 output convolution
    and the next interpolation see the refined map. Levels without a block are FPN's own.

    Parameters have FPN's names, so a plain FPN's checkpoint fits. The block at stride 2^k is the
    attribute ``fpn_relation{k}``, which may be replaced or wrapped; a level without one has an
    ``EmptyBlock`` there, which has no parameters.

    Args:
        bottom_up, in_features, out_channels, norm, top_block, fuse_type, square_pad: as those of
            :class:`detectron2.modeling.backbone.fpn.FPN`.
        block: a name in ``RELATION_BLOCK_REGISTRY``, or "" for a plain FPN.
        block_features: the members of ``in_features`` whose merged level gets a block; None or
            empty means those at strides 8 and above, as in the papers.
        block_options: keyword arguments of every block, beside its channels.
        zero_init_residual: whether every block starts as the identity, so that a plain FPN's
            checkpoint gives its own outputs until training goes on.
        attend_to_padding: whether the blocks relate all positions of the padded batch, as the
            papers' do. Otherwise they get where each image ends, and its features don't depend on
            how large the others of its batch are: :mod:`enl_detectron2.layers.padding`.

    Raises:
        ValueError: if the bottom-up network can't carry the pyramid, a feature is not there to be
            used, or a block can't be built; names the argument, or the configuration's key.
    """

    @naming_keys("ENL_FPN", in_features="MODEL.FPN.IN_FEATURES")
    @configurable
    def __init__(
        self,
        bottom_up: Backbone,
        in_features: Sequence[str],
        out_channels: int,
        norm: str = "",
        top_block: nn.Module | None = None,
        fuse_type: str = "sum",
        square_pad: int = 0,
        *,
        block: str = "ENLBlock",
        block_features: Sequence[str] | None = None,
        block_options: Mapping[str, Any] | None = None,
        zero_init_residual: bool = False,
        attend_to_padding: bool = False,
    ):
        levels = pyramid_levels(bottom_up, in_features)
        features = features_with_blocks(levels, block_features) if block else []
        super().__init__(
            bottom_up, in_features, out_channels, norm, top_block, fuse_type, square_pad
        )
        self.top_block_reads_bottom_up = reads_bottom_up(top_block, bottom_up, levels)
        self.attend_to_padding = attend_to_padding or not block
        # In top-down order, as lateral_convs and output_convs.
        self.relation_levels = list(levels.values())[::-1]
        for feature, k in reversed(levels.items()):
            relation: nn.Module = EmptyBlock(out_channels)
            if feature in features:
                relation = build_relation_block(
                    block, out_channels, block_options, zero_init_residual
                )
            setattr(self, f"fpn_relation{k}", relation)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict[str, Any]:
        node = config_node(cfg, "ENL_FPN")
        check_choice("bottom_up", node.BOTTOM_UP, sorted(name for name, _ in BACKBONE_REGISTRY))
        bottom_up = BACKBONE_REGISTRY.get(node.BOTTOM_UP)(cfg, input_shape)
        levels = pyramid_levels(bottom_up, cfg.MODEL.FPN.IN_FEATURES)
        warn_of_black_padding(cfg.MODEL.PIXEL_MEAN)
        return {
            "bottom_up": bottom_up,
            "in_features": cfg.MODEL.FPN.IN_FEATURES,
            "out_channels": cfg.MODEL.FPN.OUT_CHANNELS,
            "norm": cfg.MODEL.FPN.NORM,
            "top_block": build_top_block(cfg, bottom_up, levels),
            "fuse_type": cfg.MODEL.FPN.FUSE_TYPE,
            "block": node.BLOCK,
            "block_features": node.BLOCK_FEATURES,
            **block_arguments(node),
        }

    def __setattr__(self, name: str, value: Any) -> None:
        # Here every block comes in, at construction and later: one that is called with the map
        # alone, an nn.Identity say, is adapted once.
        if name.startswith("fpn_relation") and isinstance(value, nn.Module):
            value = as_relation_block(value)
        super().__setattr__(name, value)

    @property
    def relation_blocks(self) -> list[nn.Module]:
        """The levels' blocks as they are now, in top-down order."""
        return [getattr(self, f"fpn_relation{k}") for k in self.relation_levels]

    # TorchScript is given a list of modules under this name instead.
    __jit_unused_properties__ = ["relation_blocks"]

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """The input of the bottom-up network, images (B, C, H, W) that are normalised and then
        padded with zeros → "p<k>": (B, out_channels, ⌈H/2^k⌉, ⌈W/2^k⌉), from fine to coarse."""
        bottom_up_features = self.bottom_up(x)
        image_sizes = None if self.attend_to_padding else image_extent(x)
        results: list[Tensor] = []
        refined = x  # what the next finer level interpolates; nothing flows into the coarsest
        for index, (lateral_conv, relation_block, output_conv) in enumerate(
            zip(self.lateral_convs, self.relation_blocks, self.output_convs)
        ):
            extent: Tensor | None = None
            if image_sizes is not None:
                extent = map_extent(image_sizes, 1 << self.relation_levels[index])
            merged = lateral_conv(bottom_up_features[self.in_features[-index - 1]])
            if index > 0:
                merged = merged + F.interpolate(refined, scale_factor=2.0, mode="nearest")
                if self._fuse_type == "avg":
                    merged = merged / 2
            refined = relation_block(merged, extent)
            results.insert(0, output_conv(refined))
        if self.top_block is not None:
            source = self.top_block.in_feature
            if self.top_block_reads_bottom_up:
                top_block_input = bottom_up_features[source]
            else:
                top_block_input = results[self._out_features.index(source)]
            results.extend(self.top_block(top_block_input))
        # A comprehension, as TorchScript knows no dict(zip(...)).
        return {name: result for name, result in zip(self._out_features, results)}  # noqa: C416

    def __prepare_scriptable__(self) -> "ENL_FPN":
        # TorchScript knows no lists of modules. detectron2.export gives FPN this method, for its
        # two lists; it also takes the modules of these lists away as attributes.
        scriptable = super().__prepare_scriptable__()
        scriptable.relation_blocks = nn.ModuleList(map(copy.deepcopy, self.relation_blocks))
        return scriptable
