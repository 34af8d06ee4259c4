"""+3NL TD: three full non-local blocks top-down, no position."""

from enl_detectron2.modeling import ENL_FPN

from .rcnn_R50 import dataloader, lr_multiplier, model, optimizer, train

model.backbone.update(_target_=ENL_FPN, block="NonLocalBlock")
train.output_dir = "./output/ablations_600px/nl_rcnn_R50"
