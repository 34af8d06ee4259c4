"""+3NL TD, affinity times the cosine filter."""

from .nl_rcnn_R50 import dataloader, lr_multiplier, model, optimizer, train

model.backbone.block_options = {"position": "cos_mul"}
train.output_dir = "./output/ablations_600px/nl_cos_mul_rcnn_R50"
