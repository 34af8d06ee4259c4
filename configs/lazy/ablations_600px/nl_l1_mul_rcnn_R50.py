"""+3NL TD, affinity times the l1 kernel."""

from .nl_rcnn_R50 import dataloader, lr_multiplier, model, optimizer, train

model.backbone.block_options = {"position": "l1_mul"}
train.output_dir = "./output/ablations_600px/nl_l1_mul_rcnn_R50"
