"""A ResNet with one non-local block, as Wang et al. (2018) place it."""

import math
from collections import OrderedDict

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, ResNet, build_resnet_backbone
from torch import Tensor, nn

from enl_detectron2.layers import NonLocalBlock
from enl_detectron2.training.errors import ConfigError

from .build import block_options, build_relation_block
from .padding import image_extent, map_extent

NODE = "MODEL.NON_LOCAL_RESNET"


@BACKBONE_REGISTRY.register()
def build_non_local_resnet_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> ResNet:
    """detectron2's ResNet of ``cfg.MODEL.RESNETS`` with a block of ``cfg.MODEL.NON_LOCAL_RESNET``.

    Raises:
        ValueError: if the ResNet lacks the stage, or an option is wrong; names the key.
    """
    node = cfg.MODEL.NON_LOCAL_RESNET
    return insert_non_local_block(
        build_resnet_backbone(cfg, input_shape),
        node.STAGE,
        zero_init_residual=node.ZERO_INIT_RESIDUAL,
        attend_to_padding=node.ATTEND_TO_PADDING,
        **block_options(node, NonLocalBlock.__name__),
    )


class NonLocalStage(nn.Sequential):
    """A ResNet's stage with a non-local block, which is told where each image ends."""

    non_local_stride: int  # pixels to a cell of the non-local block's map

    def forward(self, x: Tensor, image_sizes: Tensor) -> Tensor:
        """
        Args:
            x: (B, C, H, W), the stage's input.
            image_sizes: (B, 2), in pixels, without padding.
        """
        extent = map_extent(image_sizes, self.non_local_stride)
        for block in self:
            # Not isinstance, which TorchScript can't decide for modules.
            x = block(x, extent) if hasattr(block, "theta") else block(x)
        return x


class NonLocalResNet(ResNet):
    """A ResNet with stages that are a :class:`NonLocalStage`; made by insert_non_local_block."""

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """
        Args:
            x: (B, 3, H, W), images, normalised and then padded with zeros.

        Returns:
            As detectron2's ``ResNet``, the features by name.
        """
        image_sizes = image_extent(x)
        outputs = {}
        x = self.stem(x)
        if "stem" in self._out_features:
            outputs["stem"] = x
        for name, stage in zip(self.stage_names, self.stages):
            x = stage(x, image_sizes) if hasattr(stage, "non_local_stride") else stage(x)
            if name in self._out_features:
                outputs[name] = x
        if self.num_classes is not None:
            x = self.linear(self.avgpool(x).flatten(1))
            if "linear" in self._out_features:
                outputs["linear"] = x
        return outputs


def insert_non_local_block(
    resnet: ResNet,
    stage: str = "res4",
    *,
    zero_init_residual: bool = False,
    attend_to_padding: bool = False,
    **options,
) -> ResNet:
    """Puts a non-local block right before the last residual block of a stage.

    The residual blocks keep their names, so a checkpoint of the plain ResNet fits; the new block's
    parameters are ``<stage>.non_local.*``.

    Args:
        resnet: changed in place.
        stage: "res2", … "res5".
        zero_init_residual: whether the block starts as the identity.
        attend_to_padding: whether the block relates all positions of the padded batch, as in the
            papers. If not, the ResNet is a :class:`NonLocalResNet` from now on.
        options: of :class:`enl_detectron2.layers.NonLocalBlock`, beside its channels.

    Returns:
        ``resnet``.

    Raises:
        ValueError: if the ResNet has no such stage, or an option is wrong; names the key.
    """
    if stage not in resnet.stage_names:
        raise ConfigError(
            f"{NODE}.STAGE must be one of {', '.join(resnet.stage_names)}, the stages that this "
            f"ResNet has, got {stage!r}"
        )
    known = (ResNet.forward, NonLocalResNet.forward)
    if not attend_to_padding and type(resnet).forward not in known:
        raise ValueError(
            f"{type(resnet).__name__} has a forward method of its own, which doesn't tell the "
            "non-local block where images end; attend_to_padding must be True for it"
        )
    *blocks, last = getattr(resnet, stage).named_children()
    channels = last[1].in_channels
    non_local = build_relation_block(
        NonLocalBlock.__name__,
        channels,
        options,
        zero_init_residual=zero_init_residual,
        node=NODE,
    )
    container = nn.Sequential if attend_to_padding else NonLocalStage
    setattr(resnet, stage, container(OrderedDict([*blocks, ("non_local", non_local), last])))
    resnet.stages[resnet.stage_names.index(stage)] = getattr(resnet, stage)
    if not attend_to_padding:
        resnet.__class__ = NonLocalResNet
        getattr(resnet, stage).non_local_stride = _stride_before_last(resnet, stage)
    return resnet


def _stride_before_last(resnet: ResNet, stage: str) -> int:
    """Of the map that the last residual block of a stage is given."""
    blocks = [block for name in resnet.stage_names for block in getattr(resnet, name)]
    before = blocks[: blocks.index(getattr(resnet, stage).non_local)]
    return resnet.stem.stride * math.prod(getattr(block, "stride", 1) for block in before)
