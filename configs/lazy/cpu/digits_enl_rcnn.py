"""The built-in relational digits, ENL: the baseline's difference is the backbone alone."""

from enl_detectron2.modeling import ENL_FPN

from .digits_rcnn import dataloader, lr_multiplier, model, optimizer, train

model.backbone._target_ = ENL_FPN
train.output_dir = "./output/digits_enl_rcnn"
