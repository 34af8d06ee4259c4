"""+3ENL TD without position, tanh of theta, softmax of phi."""

from .enl_no_position_rcnn_R50 import dataloader, lr_multiplier, model, optimizer, train

model.backbone.block_options.theta_norm = "tanh"
train.output_dir = "./output/ablations_600px/enl_softmax_tanh_rcnn_R50"
