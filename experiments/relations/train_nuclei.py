#!/usr/bin/env python
"""The project's train_net.py with EfficientNet-Lite0, pretrained or not yet."""

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from torch import nn

from enl_detectron2.model_zoo.efficientnet_lite import EfficientNetLite
from enl_detectron2.training.launch import main


@BACKBONE_REGISTRY.register()
def build_untrained_efficientnet_lite_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> Backbone:
    """The network with random weights; ``MODEL.RESNETS.NORM`` must be "BN"."""
    backbone = EfficientNetLite(
        out_features=cfg.MODEL.RESNETS.OUT_FEATURES,
        norm=cfg.MODEL.RESNETS.NORM,
        freeze_at=cfg.MODEL.BACKBONE.FREEZE_AT,
    )
    for module in backbone.modules():
        if isinstance(module, (nn.Conv2d, nn.BatchNorm2d)):
            module.reset_parameters()
    return backbone


if __name__ == "__main__":
    main()
