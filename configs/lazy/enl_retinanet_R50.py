"""RetinaNet R50 with ENL blocks top-down, at strides 32, 16 and 8; P6 and P7 from res5."""

from detectron2 import model_zoo

from enl_detectron2.modeling import ENL_FPN

from .common.coco_1x import dataloader, lr_multiplier, optimizer, train

model = model_zoo.get_config("common/models/retinanet.py").model
model.backbone.bottom_up.freeze_at = 2
model.backbone._target_ = ENL_FPN
optimizer.lr = 0.01
train.output_dir = "./output/enl_retinanet_R50"
