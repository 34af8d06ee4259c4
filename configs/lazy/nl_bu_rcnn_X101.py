"""Faster R-CNN X101-32x8d, +1NL BU: a non-local block bottom-up, before the last block of res4."""

from detectron2.config import LazyCall as L

from enl_detectron2.modeling import insert_non_local_block

from .rcnn_X101 import dataloader, lr_multiplier, model, optimizer, train

model.backbone.in_features = model.backbone.bottom_up.out_features
model.backbone.bottom_up = L(insert_non_local_block)(resnet=model.backbone.bottom_up, stage="res4")
train.output_dir = "./output/nl_bu_rcnn_X101"
