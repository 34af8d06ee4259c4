"""A ResNet with one non-local block, as Wang et al. (2018) place it."""

import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.layers import CNNBlockBase, ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, ResNet, build_resnet_backbone
from torch import Tensor, nn

from enl_detectron2.layers import EmptyBlock, RelationBlock, image_extent, map_extent
from enl_detectron2.layers.relation_block import check_choice

from .build import build_relation_block, options_of, require_node


class NonLocalResNet(ResNet):
    """detectron2's ResNet with a non-local block right before the last residual block of a stage.

    The residual blocks keep their names, so a plain ResNet's checkpoint fits; the new block is
    ``<stage>.non_local``, where the other stages have an ``EmptyBlock`` without parameters. It is
    trained whatever ``freeze_at`` freezes.

    The first five arguments are those of :class:`detectron2.modeling.ResNet`.

    Args:
        stage: "res2", … "res5", where the block stands.
        block_options: keyword arguments of :class:`enl_detectron2.layers.NonLocalBlock`, beside its
            channels.
        zero_init_residual: whether the block starts as the identity.
        attend_to_padding: whether it relates all positions of the padded batch, as in the papers.

    Raises:
        ValueError: if the ResNet has no such stage, or an option is wrong; names the argument.
    """

    def __init__(
        self,
        stem: CNNBlockBase,
        stages: Sequence[Sequence[CNNBlockBase]],
        num_classes: int | None = None,
        out_features: Sequence[str] | None = None,
        freeze_at: int = 0,
        *,
        stage: str = "res4",
        block_options: Mapping[str, Any] | None = None,
        zero_init_residual: bool = False,
        attend_to_padding: bool = False,
    ):
        super().__init__(stem, stages, num_classes, out_features, freeze_at)
        check_choice("stage", stage, self.stage_names)
        self.attend_to_padding = attend_to_padding
        stride = int(stem.stride)  # of the map that comes next, in pixels
        for index, name in enumerate(self.stage_names):
            *blocks, (last_name, last) = self.stages[index].named_children()
            stride *= math.prod(int(block.stride) for _, block in blocks)
            channels = last.in_channels
            relation: nn.Module = EmptyBlock(channels)
            if name == stage:
                self.non_local_stride = stride
                relation = build_relation_block(
                    "NonLocalBlock", channels, block_options, zero_init=zero_init_residual
                )
            stride *= int(last.stride)
            blocks += [("non_local", relation), (last_name, last)]
            self.stages[index] = StageWithBlock(OrderedDict(blocks))
            setattr(self, name, self.stages[index])

    def freeze(self, freeze_at: int = 0) -> "NonLocalResNet":
        """As detectron2's ``ResNet.freeze``, but for the block, which stays as it is."""
        if freeze_at >= 1:
            self.stem.freeze()
        for stage in self.stages[: max(freeze_at - 1, 0)]:
            for block in stage:
                if not isinstance(block, RelationBlock):
                    block.freeze()
        return self

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """
        Args:
            x: (B, 3, H, W), images, normalised and then padded with zeros.

        Returns:
            As detectron2's ``ResNet``, the features by name.
        """
        extent: Tensor | None = None  # of the map that the non-local block sees
        if not self.attend_to_padding:
            extent = map_extent(image_extent(x), self.non_local_stride)
        outputs = {}
        x = self.stem(x)
        if "stem" in self._out_features:
            outputs["stem"] = x
        for name, stage in zip(self.stage_names, self.stages):
            x = stage(x, extent)
            if name in self._out_features:
                outputs[name] = x
        if self.num_classes is not None:
            x = self.linear(self.avgpool(x).flatten(1))
            if "linear" in self._out_features:
                outputs["linear"] = x
        return outputs


class StageWithBlock(nn.Sequential):
    """A stage of residual blocks, with the block ``non_local`` before the last of them."""

    def __init__(self, blocks: OrderedDict[str, nn.Module]):
        super().__init__(blocks)
        self.non_local_index = len(blocks) - 2

    def forward(self, x: Tensor, extent: Tensor | None = None) -> Tensor:
        """
        Args:
            x: (B, C, H, W), the stage's input.
            extent: (B, 2), see :class:`enl_detectron2.layers.RelationBlock`.
        """
        for index, block in enumerate(self):
            x = self.non_local(x, extent) if index == self.non_local_index else block(x)  # type: ignore[operator]
        return x


@BACKBONE_REGISTRY.register()
def build_non_local_resnet_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> NonLocalResNet:
    """The ResNet of ``cfg.MODEL.RESNETS`` with the block of ``cfg.MODEL.NON_LOCAL_RESNET``.

    Raises:
        ValueError: if the ResNet lacks the stage, or an option is wrong; names the key.
    """
    node, key = require_node(cfg, "NON_LOCAL_RESNET"), "MODEL.NON_LOCAL_RESNET."
    resnet = build_resnet_backbone(cfg, input_shape)  # frozen where the configuration says so
    check_choice(key + "STAGE", node.STAGE, resnet.stage_names)
    options = options_of(node.BLOCK_OPTIONS)
    with torch.device("meta"):  # which draws no random numbers
        build_relation_block("NonLocalBlock", 2, options, words=("", key + "BLOCK_OPTIONS"))
    return NonLocalResNet(
        resnet.stem,
        [list(stage) for stage in resnet.stages],
        out_features=cfg.MODEL.RESNETS.OUT_FEATURES,
        stage=node.STAGE,
        block_options=options,
        zero_init_residual=node.ZERO_INIT_RESIDUAL,
        attend_to_padding=node.ATTEND_TO_PADDING,
    )
