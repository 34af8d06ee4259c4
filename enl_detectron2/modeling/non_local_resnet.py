"""A ResNet with one non-local block, as Wang et al. (2018) place it."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

from detectron2.config import CfgNode
from detectron2.layers import CNNBlockBase, ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, ResNet, build_resnet_backbone
from torch import Tensor, nn

from enl_detectron2.layers import image_extent, map_extent
from enl_detectron2.layers.relation_block import check_choice

from .build import block_arguments, build_block, config_node


class NonLocalResNet(ResNet):
    """detectron2's ResNet with a non-local block right before the last residual block of a stage.

    The residual blocks keep their names, so a plain ResNet's checkpoint fits; the new block is
    ``<stage>.non_local``.

    Args:
        stem, stages, num_classes, out_features, freeze_at: as in detectron2's ``ResNet``;
            the block is trained whatever is frozen.
        stage: "res2" to "res5", the stage that gets the block.
        block_options: keyword arguments of ``NonLocalBlock``, beside its channels.
        zero_init_residual: whether the block starts as the identity.
        attend_to_padding: whether it relates all positions of the padded batch, as in the papers.

    Raises InvalidOption (a ValueError) if the stage doesn't exist or an option is wrong.
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
        index = self.stage_names.index(stage)
        *blocks, (last_name, last) = self.stages[index].named_children()
        relation = build_block("NonLocalBlock", last.in_channels, block_options, zero_init_residual)
        blocks += [("non_local", relation), (last_name, last)]
        self.stages[index] = StageWithBlock(OrderedDict(blocks))
        setattr(self, stage, self.stages[index])
        # ResNet's strides are those of a stage's output; the block sees the map before it.
        self.non_local_stride = self._out_feature_strides[stage] // int(last.stride)

    def freeze(self, freeze_at: int = 0) -> "NonLocalResNet":
        """Freezes the stem and stages that detectron2's ``freeze`` does, but not the block."""
        for part in [self.stem, *self.stages][: max(freeze_at, 0)]:
            for block in part.modules():
                if isinstance(block, CNNBlockBase):
                    block.freeze()
        return self

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Images (B, 3, H, W), normalised and then padded with zeros → the features by name, as
        detectron2's ResNet has them: "res<n>": (B, C_n, ⌈H/2^n⌉, ⌈W/2^n⌉)."""
        extent: Tensor | None = None  # of the map that the non-local block sees
        if not self.attend_to_padding:
            extent = map_extent(image_extent(x), self.non_local_stride)
        outputs = {}
        x = self.stem(x)
        if "stem" in self._out_features:
            outputs["stem"] = x
        for name, stage in zip(self.stage_names, self.stages):
            # The only condition on a module that TorchScript decides before it compiles the call,
            # and only as a statement.
            if hasattr(stage, "non_local"):  # noqa: SIM108
                x = stage(x, extent)
            else:
                x = stage(x)
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
        self.non_local_index = len(blocks) - 2  # TorchScript knows no len(self)

    def forward(self, x: Tensor, extent: Tensor | None = None) -> Tensor:
        """``x`` is what enters the stage, ``extent`` (B, 2) is of the map that the block sees."""
        for index, block in enumerate(self):
            x = self.non_local(x, extent) if index == self.non_local_index else block(x)  # type: ignore[operator]
        return x


@BACKBONE_REGISTRY.register()
def build_non_local_resnet_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> NonLocalResNet:
    """The ResNet of ``cfg.MODEL.RESNETS`` with the block of ``cfg.MODEL.NON_LOCAL_RESNET``.

    Raises ValueError if add_enl_config hasn't put that node there, or as :class:`NonLocalResNet`.
    """
    node = config_node(cfg, "NON_LOCAL_RESNET")
    resnet = build_resnet_backbone(cfg, input_shape)  # frozen where the configuration says so
    return NonLocalResNet(
        resnet.stem,
        [list(stage) for stage in resnet.stages],
        out_features=cfg.MODEL.RESNETS.OUT_FEATURES,
        stage=node.STAGE,
        **block_arguments(node),
    )
