"""Mask R-CNN R50, +1NL BU: one non-local block bottom-up, before the last block of res4."""

from detectron2.config import LazyCall as L

from enl_detectron2.modeling import insert_non_local_block

from .mask_rcnn_R50 import dataloader, lr_multiplier, model, optimizer, train

model.backbone.in_features = model.backbone.bottom_up.out_features
model.backbone.bottom_up = L(insert_non_local_block)(resnet=model.backbone.bottom_up, stage="res4")
train.output_dir = "./output/nl_bu_mask_rcnn_R50"
