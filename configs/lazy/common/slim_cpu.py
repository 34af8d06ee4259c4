"""A Faster R-CNN that two CPU cores can train from scratch in minutes.

A ResNet-50 of a quarter of the usual width, its batch norm trained, and anchors for objects of 8
pixels up.
"""

import torch
from detectron2 import model_zoo
from detectron2.config import LazyCall as L
from detectron2.layers import ShapeSpec
from detectron2.modeling.backbone import ResNet
from detectron2.modeling.backbone.resnet import BottleneckBlock
from fvcore.common.param_scheduler import MultiStepParamScheduler

from enl_detectron2.training.optimizer import with_clipped_gradients

dataloader = model_zoo.get_config("common/data/coco.py").dataloader
dataloader.train.mapper.use_instance_mask = False
dataloader.train.total_batch_size = 8
# The cores have enough to do.
dataloader.train.num_workers = dataloader.test.num_workers = 0
# Images as they are.
dataloader.train.mapper.augmentations[0].short_edge_length = (0,)
dataloader.test.mapper.augmentations[0].short_edge_length = 0
dataloader.evaluator.output_dir = "${train.output_dir}/inference"

model = model_zoo.get_config("common/models/mask_rcnn_fpn.py").model
for mask_part in ("mask_in_features", "mask_pooler", "mask_head"):
    model.roi_heads.pop(mask_part)
model.pixel_std = [57.375, 57.12, 58.395]
resnet = model.backbone.bottom_up
resnet.freeze_at = 0
resnet.stem.update(out_channels=16, norm="BN")
resnet.stages = [
    L(ResNet.make_stage)(
        block_class=BottleneckBlock,
        num_blocks=num_blocks,
        stride_per_block=[1 if index == 0 else 2] + [1] * (num_blocks - 1),
        in_channels=16 if index == 0 else 32 << index,
        out_channels=64 << index,
        bottleneck_channels=16 << index,
        stride_in_1x1=True,
        norm="BN",
    )
    for index, num_blocks in enumerate([3, 4, 6, 3])
]
model.backbone.out_channels = 64
rpn = model.proposal_generator
rpn.head.in_channels = 64
rpn.anchor_generator.sizes = [[12], [24], [48], [96], [192]]
rpn.pre_nms_topk = (500, 1000)
rpn.post_nms_topk = (500, 1000)
heads = model.roi_heads
heads.batch_size_per_image = 128  # pooling them, forward and back, is what a step costs here
heads.box_head.input_shape = ShapeSpec(channels=64, height=7, width=7)
heads.box_head.fc_dims = [256, 256]
heads.box_predictor.input_shape = ShapeSpec(channels=256)

optimizer = model_zoo.get_config("common/optim.py").SGD
optimizer._target_ = with_clipped_gradients
# From scratch, a blow-up in the first steps can kill a network for good.
optimizer.optimizer, optimizer.clip_norm = torch.optim.SGD, 1.0

# Both configurations set their own lengths.
lr_multiplier = model_zoo.get_config("common/coco_schedule.py").lr_multiplier_1x
lr_multiplier.scheduler = L(MultiStepParamScheduler)(values=[1.0, 0.1, 0.01], milestones=[])

train = model_zoo.get_config("common/train.py").train
train.device = "cpu"
train.seed = 1
train.eval_period = 0  # at the end alone
train.checkpointer.period = 100
