"""Baseline: Mask R-CNN R50-FPN."""

from detectron2 import model_zoo

from .common.coco_1x import dataloader, lr_multiplier, optimizer, train

model = model_zoo.get_config("common/models/mask_rcnn_fpn.py").model
model.backbone.bottom_up.freeze_at = 2
dataloader.train.mapper.use_instance_mask = True
train.output_dir = "./output/mask_rcnn_R50"
