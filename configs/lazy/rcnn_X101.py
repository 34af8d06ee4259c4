"""Baseline: Faster R-CNN X101-32x8d-FPN."""

from detectron2.config import LazyCall as L
from detectron2.modeling import ResNet
from detectron2.modeling.backbone.resnet import BottleneckBlock

from .rcnn_R50 import dataloader, lr_multiplier, model, optimizer, train

# Written out, as detectron2's make_default_stages knows no width other than ResNet's.
model.backbone.bottom_up.stages = [
    L(ResNet.make_stage)(
        block_class=BottleneckBlock,
        num_blocks=num_blocks,
        stride_per_block=[1 if stage == 0 else 2] + [1] * (num_blocks - 1),
        in_channels=64 if stage == 0 else 128 << stage,
        out_channels=256 << stage,
        bottleneck_channels=256 << stage,
        num_groups=32,
        stride_in_1x1=False,
        norm="FrozenBN",
    )
    for stage, num_blocks in enumerate([3, 4, 23, 3])
]
model.pixel_std = [57.375, 57.120, 58.395]  # what these weights were trained with
train.init_checkpoint = "detectron2://ImageNetPretrained/FAIR/X-101-32x8d.pkl"
train.output_dir = "./output/rcnn_X101"
