"""+3ENL TD with position, the papers' system."""

from enl_detectron2.modeling import ENL_FPN

from .rcnn_R50 import dataloader, lr_multiplier, model, optimizer, train

model.backbone._target_ = ENL_FPN
train.output_dir = "./output/ablations_600px/enl_rcnn_R50"
