"""Faster R-CNN R50, +1NL BU: one non-local block bottom-up, before the last block of res4."""

from enl_detectron2.modeling import NonLocalResNet

from .rcnn_R50 import dataloader, lr_multiplier, model, optimizer, train

model.backbone.bottom_up.update(_target_=NonLocalResNet, stage="res4")
train.output_dir = "./output/nl_bu_rcnn_R50"
