"""Mask R-CNN R50, +3ENL TD: three ENL blocks top-down, at strides 32, 16 and 8."""

from enl_detectron2.modeling import ENL_FPN

from .mask_rcnn_R50 import dataloader, lr_multiplier, model, optimizer, train

model.backbone._target_ = ENL_FPN
train.output_dir = "./output/enl_mask_rcnn_R50"
