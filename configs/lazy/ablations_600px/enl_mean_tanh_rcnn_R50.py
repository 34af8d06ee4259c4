"""+3ENL TD without position, tanh of theta, phi divided by N."""

from .enl_no_position_rcnn_R50 import dataloader, lr_multiplier, model, optimizer, train

model.backbone.block_options.phi_norm = "mean"
model.backbone.block_options.theta_norm = "tanh"
train.output_dir = "./output/ablations_600px/enl_mean_tanh_rcnn_R50"
