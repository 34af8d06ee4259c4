"""Faster R-CNN R50, +1NL BU with relative position ('spat' in the 2018 preprint)."""

from .nl_bu_rcnn_R50 import dataloader, lr_multiplier, model, optimizer, train

model.backbone.bottom_up.block_options = {"position": "cos_add"}
train.output_dir = "./output/nl_bu_cos_add_rcnn_R50"
