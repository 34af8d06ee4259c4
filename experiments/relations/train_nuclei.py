#!/usr/bin/env python
"""The project's train_net.py with EfficientNet-Lite0, pretrained or not yet."""

import sys
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from torch import nn

from enl_detectron2.training.launch import main

sys.path.append(str(Path(__file__).resolve().parents[2] / "examples" / "efficientnet_lite"))
from efficientnet_lite import build_efficientnet_lite_backbone  # noqa: E402  registers it, too


@BACKBONE_REGISTRY.register()
def build_untrained_efficientnet_lite_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> Backbone:
    """The example's network with random weights; ``MODEL.RESNETS.NORM`` must be "BN"."""
    backbone = build_efficientnet_lite_backbone(cfg, input_shape)
    for module in backbone.modules():
        if isinstance(module, (nn.Conv2d, nn.BatchNorm2d)):
            module.reset_parameters()
    return backbone


if __name__ == "__main__":
    main()
