"""+3ENL TD without position."""

from .enl_rcnn_R50 import dataloader, lr_multiplier, model, optimizer, train

model.backbone.block_options = {"position": "none"}
train.output_dir = "./output/ablations_600px/enl_no_position_rcnn_R50"
