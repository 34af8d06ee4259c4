"""+3NL TD, affinity divided by N instead of the softmax."""

from .nl_rcnn_R50 import dataloader, lr_multiplier, model, optimizer, train

model.backbone.block_options = {"affinity_norm": "mean"}
train.output_dir = "./output/ablations_600px/nl_mean_rcnn_R50"
