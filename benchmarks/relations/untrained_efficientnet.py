"""EfficientNet-Lite0 as it is before any training, to see what pretraining changes."""

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from efficientnet_lite import build_efficientnet_lite_backbone
from torch import nn


@BACKBONE_REGISTRY.register()
def build_untrained_efficientnet_lite_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> Backbone:
    """The example's network with random weights; ``MODEL.RESNETS.NORM`` must be "BN"."""
    backbone = build_efficientnet_lite_backbone(cfg, input_shape)
    for module in backbone.modules():
        if isinstance(module, (nn.Conv2d, nn.BatchNorm2d)):
            module.reset_parameters()
    return backbone
