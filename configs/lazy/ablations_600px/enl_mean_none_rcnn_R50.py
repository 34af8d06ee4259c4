"""+3ENL TD without position, phi divided by N."""

from .enl_no_position_rcnn_R50 import dataloader, lr_multiplier, model, optimizer, train

model.backbone.block_options.phi_norm = "mean"
train.output_dir = "./output/ablations_600px/enl_mean_none_rcnn_R50"
