"""Cell nuclei, plain FPN: the images at their own scale, up to 375 objects in one."""

from detectron2.config import LazyCall as L
from detectron2.data import transforms as T

from ..common.slim_cpu import dataloader, lr_multiplier, model, optimizer, train

model.proposal_generator.anchor_generator.sizes = [[8], [16], [32], [64], [128]]
model.roi_heads.num_classes = 1
model.roi_heads.box_predictor.test_topk_per_image = 400

dataloader.coco_format = [
    ["nuclei_train", "nuclei_train.json", "nuclei_train"],
    ["nuclei_val", "nuclei_val.json", "nuclei_val"],
]
dataloader.train.dataset.names = "nuclei_train"
dataloader.test.dataset.names = "nuclei_val"
dataloader.train.mapper.augmentations.insert(
    0, L(T.RandomCrop)(crop_type="absolute", crop_size=[256, 256])
)
dataloader.train.total_batch_size = 4
dataloader.evaluator.max_dets_per_image = 400

optimizer.lr = 0.01
train.max_iter = 900
lr_multiplier.scheduler.milestones = [700, 850, 900]
lr_multiplier.warmup_length = 300 / 900
train.output_dir = "./output/nuclei_rcnn"
