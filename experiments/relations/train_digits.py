#!/usr/bin/env python
"""The project's train_net.py with a ResNet that sees little of a scene by itself."""

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, ResNet
from detectron2.modeling.backbone.resnet import BasicBlock, BasicStem

from enl_detectron2.modeling.non_local_resnet import insert_non_local_block
from enl_detectron2.training.trainer import main

STEM_CHANNELS = 16
STAGES = {"res2": 32, "res3": 64, "res4": 128}  # channels


@BACKBONE_REGISTRY.register()
def build_small_resnet_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> ResNet:
    """res2 to res4 (strides 4, 8, 16) of one basic block each; ``MODEL.RESNETS.NORM`` and
    ``MODEL.BACKBONE.FREEZE_AT`` mean what they mean to detectron2's ResNet."""
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
    stem = BasicStem(input_shape.channels, STEM_CHANNELS, norm)
    return ResNet(stem, stages, out_features=list(STAGES), freeze_at=cfg.MODEL.BACKBONE.FREEZE_AT)


@BACKBONE_REGISTRY.register()
def build_small_non_local_resnet_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> ResNet:
    """The same with one non-local block right before the last residual block of res4."""
    resnet = build_small_resnet_backbone(cfg, input_shape)
    node = cfg.MODEL.NON_LOCAL_RESNET
    return insert_non_local_block(
        resnet, "res4", init_std=node.INIT_STD, zero_init_residual=node.ZERO_INIT_RESIDUAL
    )


if __name__ == "__main__":
    main()
