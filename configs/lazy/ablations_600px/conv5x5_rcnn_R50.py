"""+3conv5 TD, the control: 5x5 convolutions where the blocks stand."""

from enl_detectron2.modeling import ENL_FPN

from .rcnn_R50 import dataloader, lr_multiplier, model, optimizer, train

model.backbone.update(_target_=ENL_FPN, block="Conv5x5Block")
train.output_dir = "./output/ablations_600px/conv5x5_rcnn_R50"
