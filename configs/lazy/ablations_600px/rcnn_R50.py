"""Baseline of the 2018 preprint's ablations: the shorter side at 600 pixels."""

from ..rcnn_R50 import dataloader, lr_multiplier, model, optimizer, train

dataloader.train.mapper.augmentations[0].short_edge_length = (600,)
dataloader.test.mapper.augmentations[0].short_edge_length = 600
train.output_dir = "./output/ablations_600px/rcnn_R50"
