"""A ResNet with one non-local block, as Wang et al. (2018) place it."""

from collections import OrderedDict

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, ResNet, build_resnet_backbone
from torch import nn

from enl_detectron2.errors import ConfigError
from enl_detectron2.layers import NonLocalBlock

from .build import block_options, build_relation_block

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
        **block_options(node, NonLocalBlock.__name__),
    )


def insert_non_local_block(
    resnet: ResNet, stage: str = "res4", *, zero_init_residual: bool = False, **options
) -> ResNet:
    """Puts a non-local block right before the last residual block of a stage.

    The residual blocks keep their names, so a checkpoint of the plain ResNet fits; the new block's
    parameters are ``<stage>.non_local.*``.

    Args:
        resnet: changed in place.
        stage: "res2", … "res5".
        zero_init_residual: whether the block starts as the identity.
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
    *blocks, last = getattr(resnet, stage).named_children()
    channels = last[1].in_channels
    non_local = build_relation_block(
        NonLocalBlock.__name__,
        channels,
        options,
        zero_init_residual=zero_init_residual,
        node=NODE,
    )
    setattr(resnet, stage, nn.Sequential(OrderedDict([*blocks, ("non_local", non_local), last])))
    resnet.stages[resnet.stage_names.index(stage)] = getattr(resnet, stage)
    return resnet
