"""+3ENL TD without position, nothing normalised (diverges in the paper)."""

from .enl_no_position_rcnn_R50 import dataloader, lr_multiplier, model, optimizer, train

model.backbone.block_options.phi_norm = "none"
train.output_dir = "./output/ablations_600px/enl_none_none_rcnn_R50"
