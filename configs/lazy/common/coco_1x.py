"""How every system is trained on COCO 2017: detectron2's 1x schedule, 16 images a step."""

from detectron2 import model_zoo

dataloader = model_zoo.get_config("common/data/coco.py").dataloader
lr_multiplier = model_zoo.get_config("common/coco_schedule.py").lr_multiplier_1x
optimizer = model_zoo.get_config("common/optim.py").SGD
train = model_zoo.get_config("common/train.py").train

dataloader.train.mapper.use_instance_mask = False
dataloader.train.mapper.augmentations[0].short_edge_length = (800,)  # the papers train at one scale
dataloader.evaluator.output_dir = "${train.output_dir}/inference"
train.init_checkpoint = "detectron2://ImageNetPretrained/MSRA/R-50.pkl"
