#!/usr/bin/env python
"""The project's train_net.py with a ResNet that sees little of a scene by itself."""

from typing import Any

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, ResNet
from detectron2.modeling.backbone.resnet import BasicBlock, BasicStem

from enl_detectron2.modeling import NonLocalResNet
from enl_detectron2.training.launch import main

STEM_CHANNELS = 16
STAGES = {"res2": 32, "res3": 64, "res4": 128}  # channels


@BACKBONE_REGISTRY.register()
def build_small_resnet_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> ResNet:
    """res2 to res4 (strides 4, 8, 16) of one basic block each; ``MODEL.RESNETS.NORM`` and
    ``MODEL.BACKBONE.FREEZE_AT`` mean what they mean to detectron2's ResNet."""
    return ResNet(**_parts(cfg, input_shape))


@BACKBONE_REGISTRY.register()
def build_small_non_local_resnet_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> ResNet:
    """The same with one non-local block right before the last residual block of res4."""
    node = cfg.MODEL.NON_LOCAL_RESNET
    return NonLocalResNet(
        **_parts(cfg, input_shape),
        stage="res4",
        block_options={name: v for name, v in node.BLOCK_OPTIONS.items() if v is not None},
        zero_init_residual=node.ZERO_INIT_RESIDUAL,
    )


def _parts(cfg: CfgNode, input_shape: ShapeSpec) -> dict[str, Any]:
    """What a ResNet is made of."""
    norm = cfg.MODEL.RESNETS.NORM
    stages, channels = [], STEM_CHANNELS
    for index, width in enumerate(STAGES.values()):
        first_stride = 1 if index == 0 else 2
        stages.append(
            ResNet.make_stage(
                BasicBlock,
                1,
                in_channels=channels,
                out_channels=width,
                norm=norm,
                stride_per_block=[first_stride],
            )
        )
        channels = width
    return {
        "stem": BasicStem(input_shape.channels, STEM_CHANNELS, norm),
        "stages": stages,
        "out_features": list(STAGES),
        "freeze_at": cfg.MODEL.BACKBONE.FREEZE_AT,
    }


if __name__ == "__main__":
    main()
