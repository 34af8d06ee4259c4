"""The papers' baseline: Faster R-CNN R50-FPN."""

from detectron2 import model_zoo

from .common.coco_1x import dataloader, lr_multiplier, optimizer, train

model = model_zoo.get_config("common/models/mask_rcnn_fpn.py").model
model.backbone.bottom_up.freeze_at = 2
for mask_part in ("mask_in_features", "mask_pooler", "mask_head"):
    model.roi_heads.pop(mask_part)
train.output_dir = "./output/rcnn_R50"
