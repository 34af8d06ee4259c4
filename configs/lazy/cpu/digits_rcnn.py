"""The built-in relational digits, plain FPN. `make demo` draws the scenes."""

import torch

from ..common.slim_cpu import dataloader, lr_multiplier, model, optimizer, train

model.proposal_generator.batch_size_per_image = 64  # a scene holds some five digits
model.proposal_generator.post_nms_topk = (500, 300)
model.roi_heads.num_classes = 10
model.roi_heads.batch_size_per_image = 32
model.roi_heads.positive_fraction = 0.5

dataloader.coco_format = [
    ["digits_train", "output/digits/train.json", "output/digits/train"],
    ["digits_test", "output/digits/test.json", "output/digits/test"],
]
dataloader.train.dataset.names = "digits_train"
dataloader.test.dataset.names = "digits_test"
dataloader.train.mapper.augmentations.pop(1)  # a mirrored digit is none
dataloader.train.total_batch_size = 16

optimizer.optimizer, optimizer.lr = torch.optim.AdamW, 0.002
del optimizer.momentum

train.max_iter = 400
lr_multiplier.scheduler.milestones = [300, 370, 400]
lr_multiplier.warmup_length = 50 / 400
train.output_dir = "./output/digits_rcnn"
