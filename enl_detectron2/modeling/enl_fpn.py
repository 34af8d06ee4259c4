"""A feature pyramid whose top-down stream passes through relation blocks."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from detectron2.modeling.backbone.fpn import FPN, LastLevelMaxPool, LastLevelP6P7
from torch import Tensor, nn

from enl_detectron2.training.errors import ConfigError

from .build import (
    RELATION_BLOCK_REGISTRY,
    block_options,
    build_relation_block,
    check_registered,
)
from .padding import WithoutExtent, image_extent, map_extent, takes_extent

NODE = "MODEL.ENL_FPN"


@BACKBONE_REGISTRY.register()
class ENL_FPN(FPN):
    """detectron2's FPN, refined coarse to fine by one relation block a level.

    Each level's merged map (lateral + upsampled coarser map; the coarsest level's lateral alone)
    passes through its block before anything else reads it: both the level's 3×3 output convolution
    and the next interpolation see the refined map. Levels without a block are FPN's own.

    Unless ``attend_to_padding``, blocks with an argument ``extent`` are told where each image ends,
    so that its features don't depend on how large the other images of its batch are. The backbone
    finds out from the zeros of the padding, see :mod:`enl_detectron2.modeling.padding`.

    Parameters have FPN's names, so a plain FPN's checkpoint fits; a block at stride 2^k adds
    ``fpn_relation{k}.*``.
    """

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
        """
        The first seven arguments are those of :class:`detectron2.modeling.backbone.fpn.FPN`.

        Args:
            block: a name in ``RELATION_BLOCK_REGISTRY``, or "" for a plain FPN.
            block_features: the members of ``in_features`` whose merged level gets a block; None
                means those at strides 8 and above, as in the papers.
            block_options: keyword arguments of every block, beside its channels.
            zero_init_residual: whether every block starts as the identity, so that a plain FPN's
                checkpoint gives its own outputs until training goes on.
            attend_to_padding: whether the blocks relate all positions of the padded batch, as the
                papers' do.

        Raises:
            ValueError: if the bottom-up network can't carry the pyramid, a feature is not there to
                be used, or a block can't be built; names the configuration's key.
        """
        if not isinstance(bottom_up, Backbone):
            raise ConfigError(
                f"{NODE}.BOTTOM_UP (bottom_up) must be a detectron2 Backbone, "
                f"got a {type(bottom_up).__name__}"
            )
        strides = {name: shape.stride for name, shape in bottom_up.output_shape().items()}
        _check_features("MODEL.FPN.IN_FEATURES (in_features)", in_features, list(strides))
        _check_strides({feature: strides[feature] for feature in in_features})
        if block_features is None:
            block_features = [feature for feature in in_features if strides[feature] >= 8]
        _check_features(f"{NODE}.BLOCK_FEATURES (block_features)", block_features, in_features)
        pools = isinstance(top_block, LastLevelMaxPool)
        if pools:
            # detectron2 fixes it to p5, which a pyramid that ends elsewhere doesn't have.
            top_block.in_feature = f"p{int(math.log2(strides[in_features[-1]]))}"
        super().__init__(
            bottom_up,
            in_features,
            out_channels,
            norm=norm,
            top_block=top_block,
            fuse_type=fuse_type,
            square_pad=square_pad,
        )
        # Swin's features, too, are called p<k>: for any block but the max-pool a bottom-up feature
        # goes before the level of the same name, as in detectron2.
        self._top_block_reads_bottom_up = False
        if top_block is not None:
            levels = self._out_features[: len(in_features)]
            self._top_block_reads_bottom_up = top_block.in_feature in strides and not pools
            _check_features(
                f"{NODE}.TOP_BLOCK (top_block.in_feature)",
                [top_block.in_feature],
                [*strides, *levels],
            )
        # In top-down order, as lateral_convs and output_convs.
        self.finds_extent = False
        self.relation_blocks = []
        self.relation_strides = [strides[feature] for feature in reversed(in_features)]
        for feature in reversed(in_features):
            relation_block = nn.Identity()
            if block and feature in block_features:
                relation_block = build_relation_block(
                    block,
                    out_channels,
                    block_options or {},
                    zero_init_residual=zero_init_residual,
                    node=NODE,
                )
                self.add_module(f"fpn_relation{int(math.log2(strides[feature]))}", relation_block)
            if not takes_extent(relation_block):
                relation_block = WithoutExtent(relation_block)
            elif not attend_to_padding:
                self.finds_extent = True
            self.relation_blocks.append(relation_block)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict[str, Any]:
        node = cfg.MODEL.ENL_FPN
        check_registered(BACKBONE_REGISTRY, node.BOTTOM_UP, f"{NODE}.BOTTOM_UP")
        if node.BLOCK:
            check_registered(RELATION_BLOCK_REGISTRY, node.BLOCK, f"{NODE}.BLOCK")
        bottom_up = BACKBONE_REGISTRY.get(node.BOTTOM_UP)(cfg, input_shape)
        return {
            "bottom_up": bottom_up,
            "in_features": cfg.MODEL.FPN.IN_FEATURES,
            "out_channels": cfg.MODEL.FPN.OUT_CHANNELS,
            "norm": cfg.MODEL.FPN.NORM,
            "top_block": _top_block(cfg, bottom_up),
            "fuse_type": cfg.MODEL.FPN.FUSE_TYPE,
            "block": node.BLOCK,
            "block_features": node.BLOCK_FEATURES,
            "block_options": block_options(node, node.BLOCK) if node.BLOCK else {},
            "zero_init_residual": node.ZERO_INIT_RESIDUAL,
            "attend_to_padding": node.ATTEND_TO_PADDING,
        }

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """
        Args:
            x: (B, C, H, W), the input of the bottom-up network: images, normalised and then padded
                with zeros.

        Returns:
            "p<k>" → (B, out_channels, ⌈H/2^k⌉, ⌈W/2^k⌉), from high to low resolution.
        """
        bottom_up_features = self.bottom_up(x)
        image_sizes = image_extent(x) if self.finds_extent else None
        results = []
        refined = x  # what the next finer level interpolates; nothing flows into the coarsest
        for index, (lateral_conv, relation_block, output_conv) in enumerate(
            zip(self.lateral_convs, self.relation_blocks, self.output_convs)
        ):
            extent: Tensor | None = None
            if image_sizes is not None:
                extent = map_extent(image_sizes, self.relation_strides[index])
            merged = lateral_conv(bottom_up_features[self.in_features[-index - 1]])
            if index > 0:
                merged = merged + F.interpolate(refined, scale_factor=2.0, mode="nearest")
                if self._fuse_type == "avg":
                    merged = merged / 2
            refined = relation_block(merged, extent)
            results.insert(0, output_conv(refined))
        if self.top_block is not None:
            source = self.top_block.in_feature
            if self._top_block_reads_bottom_up:
                top_block_input = bottom_up_features[source]
            else:
                top_block_input = results[self._out_features.index(source)]
            results.extend(self.top_block(top_block_input))
        # A comprehension, as TorchScript knows no dict(zip(...)).
        return {name: result for name, result in zip(self._out_features, results)}  # noqa: C416

    def __prepare_scriptable__(self) -> "ENL_FPN":
        # TorchScript knows no lists of modules. detectron2.export gives FPN this method, for its
        # two lists.
        scriptable = super().__prepare_scriptable__()
        scriptable.relation_blocks = nn.ModuleList(scriptable.relation_blocks)
        return scriptable


def _check_features(key: str, features: Sequence[str], available: Sequence[str]) -> None:
    unknown = [feature for feature in features if feature not in available]
    if unknown:
        raise ConfigError(
            f"{key} names {', '.join(unknown)}, but only {', '.join(available)} can be used here"
        )


def _check_strides(strides: Mapping[str, int]) -> None:
    """Raises ValueError unless each of the pyramid's strides is twice the one before it."""
    values = list(strides.values())
    doubling = values and values == [values[0] << index for index in range(len(values))]
    if not doubling or values[0].bit_count() != 1:
        found = ", ".join(f"{name} at {stride}" for name, stride in strides.items()) or "none"
        raise ConfigError(
            "MODEL.FPN.IN_FEATURES (in_features) must name features from high to low resolution, "
            f"their strides powers of 2, each twice the one before; got {found}"
        )


def _top_block(cfg: CfgNode, bottom_up: Backbone) -> nn.Module | None:
    """What extends the pyramid beyond its coarsest level, as MODEL.ENL_FPN.TOP_BLOCK names it."""
    name = cfg.MODEL.ENL_FPN.TOP_BLOCK
    if name == "LastLevelMaxPool":
        return LastLevelMaxPool()
    if name == "LastLevelP6P7":
        coarsest = cfg.MODEL.FPN.IN_FEATURES[-1]
        channels = bottom_up.output_shape()[coarsest].channels
        return LastLevelP6P7(channels, cfg.MODEL.FPN.OUT_CHANNELS, in_feature=coarsest)
    if name == "":
        return None
    raise ConfigError(
        f"{NODE}.TOP_BLOCK must be 'LastLevelMaxPool', 'LastLevelP6P7' or '', got {name!r}"
    )
