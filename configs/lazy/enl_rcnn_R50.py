"""The papers' system, +3ENL TD: three ENL blocks top-down, at strides 32, 16 and 8."""

from enl_detectron2.modeling import ENL_FPN

from .rcnn_R50 import dataloader, lr_multiplier, model, optimizer, train

model.backbone._target_ = ENL_FPN
train.output_dir = "./output/enl_rcnn_R50"
