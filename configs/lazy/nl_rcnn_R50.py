"""Faster R-CNN R50, +3NL TD: three full non-local blocks top-down."""

from enl_detectron2.modeling import ENL_FPN

from .rcnn_R50 import dataloader, lr_multiplier, model, optimizer, train

model.backbone.update(_target_=ENL_FPN, block="NonLocalBlock")
train.output_dir = "./output/nl_rcnn_R50"
