"""Cell nuclei, ENL: the baseline's difference is the backbone alone."""

from enl_detectron2.modeling import ENL_FPN

from .nuclei_rcnn import dataloader, lr_multiplier, model, optimizer, train

model.backbone._target_ = ENL_FPN
train.output_dir = "./output/nuclei_enl_rcnn"
