"""A training that takes a few seconds, which tests interrupt, repeat and feed with bad input."""

import json
from pathlib import Path

import numpy as np
import torch
from detectron2.engine import HookBase, default_argument_parser
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils import comm
from PIL import Image

from enl_detectron2.training.config import load_config
from enl_detectron2.training.trainer import Trainer, setup

ROOT = Path(__file__).parents[1]
LAZY = ROOT / "configs/lazy/cpu/digits_enl_rcnn.py"
SIZES = [(64, 48), (48, 64)]  # width and height: some are wide and some are high


def write_images(folder, count=6, names="image {}.png"):
    """A COCO-format set of noise with a box each; folder/train.json and folder/images."""
    rng = np.random.default_rng(0)
    (folder / "images").mkdir(parents=True)
    images, annotations = [], []
    for index in range(count):
        width, height = SIZES[index % 3 == 0]
        name = names.format(index)
        pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "images" / name)
        images.append({"id": index + 1, "file_name": name, "width": width, "height": height})
        annotations.append(
            {
                "id": index + 1,
                "image_id": index + 1,
                "category_id": 1,
                "bbox": [8, 8, 24, 24],
                "area": 576,
                "iscrowd": 0,
            }
        )
    categories = [{"id": 1, "name": "thing"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    write_json(folder, content)
    return content


def write_json(folder, content):
    (folder / "train.json").write_text(json.dumps(content))


def slim_config():
    """Faster R-CNN R50 with ENL_FPN on the CPU, all of its widths reduced."""
    cfg = load_config(ROOT / "configs/cpu/Base-slim-RCNN-FPN.yaml")
    cfg.MODEL.BACKBONE.NAME = "ENL_FPN"
    return make_slim(cfg)


def make_slim(cfg):
    """Reduces the widths of a ResNet with a pyramid."""
    cfg.MODEL.RESNETS.STEM_OUT_CHANNELS = 8
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 16
    cfg.MODEL.RESNETS.WIDTH_PER_GROUP = 4
    cfg.MODEL.FPN.OUT_CHANNELS = 16
    return cfg


def photographs():
    """Two images with objects and masks, of different sizes, as a mapper gives them."""
    images = []
    for seed, (height, width) in enumerate(((96, 160), (128, 90))):
        generator = torch.Generator().manual_seed(seed)
        instances = Instances((height, width))
        instances.gt_boxes = Boxes(torch.tensor([[10.0, 10, 40, 40], [30, 20, 80, 70]]))
        instances.gt_classes = torch.tensor([0, 1])
        instances.gt_masks = BitMasks(torch.ones(2, height, width, dtype=torch.bool))
        image = torch.randint(256, (3, height, width), dtype=torch.uint8, generator=generator)
        images.append({"image": image, "instances": instances, "height": height, "width": width})
    return images


def write_config(folder):
    """folder/tiny.yaml, of a slim detector that trains in a second or two."""
    cfg = slim_config()
    cfg.MODEL.ROI_BOX_HEAD.FC_DIM = 16
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 1
    cfg.MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE = 16
    cfg.MODEL.RPN.POST_NMS_TOPK_TRAIN = 40
    name = f"tiny {folder}"  # of its own in each test
    cfg.DATASETS.COCO_FORMAT = [[name, str(folder / "train.json"), str(folder / "images")]]
    cfg.DATASETS.TRAIN = (name,)
    cfg.DATASETS.TEST = ()
    cfg.INPUT.MIN_SIZE_TRAIN = (48, 64)
    cfg.INPUT.MIN_SIZE_TEST = 48
    cfg.SOLVER.IMS_PER_BATCH = 2
    cfg.SOLVER.MAX_ITER = 6
    cfg.SOLVER.STEPS = ()
    cfg.SOLVER.WARMUP_ITERS = 0
    cfg.SOLVER.BASE_LR = 0.001
    cfg.SOLVER.CHECKPOINT_PERIOD = 2
    cfg.SEED = 7
    cfg.OUTPUT_DIR = str(folder / "output")
    path = folder / "tiny.yaml"
    path.write_text(cfg.dump())
    return path


def arguments(config, *words):
    return default_argument_parser().parse_args(["--config-file", str(config), *map(str, words)])


def lazy_words(folder, output):
    """Options by which the digits' LazyConfig trains on the set of ``folder`` for three steps."""
    options = {
        "dataloader.coco_format": f"[['lazy {folder}',{folder}/train.json,{folder}/images]]",
        "dataloader.train.dataset.names": f"'lazy {folder}'",
        "dataloader.test.dataset.names": f"'lazy {folder}'",
        "dataloader.train.total_batch_size": 2,
        "dataloader.train.num_workers": 0,
        "model.roi_heads.num_classes": 1,
        "model.roi_heads.box_predictor.test_score_thresh": 0.0,
        "train.output_dir": output,
        "train.max_iter": 3,
        "train.checkpointer.period": 2,
    }
    return [f"{key}={value}" for key, value in options.items()]


class WriteLosses(HookBase):
    """A line "iteration loss" for each step, in full precision, at once on the disk."""

    def __init__(self, path):
        self.path = path

    def after_step(self):
        if not comm.is_main_process():  # which alone knows them, over all processes
            return
        loss = self.trainer.storage.history("total_loss").latest()
        with open(self.path, "a") as file:
            file.write(f"{self.trainer.iter} {float(loss)!r}\n")


def read_losses(path):
    """[(iteration, loss), …] as they were written; a line that a kill cut is left out."""
    lines = Path(path).read_text().splitlines(keepends=True) if Path(path).exists() else []
    words = [line.split() for line in lines if line.endswith("\n")]
    return [(int(iteration), float(loss)) for iteration, loss in words]


def train(config, losses, *words):
    """One run; what it has lost so far goes to the file ``losses``."""

    class Recorded(Trainer):
        def build_hooks(self):
            # First: a kill between a step's checkpoint and its record would lose the record.
            return [WriteLosses(losses), *super().build_hooks()]

    args = arguments(config, *words)
    trainer = Recorded(setup(args))
    trainer.resume_or_load(resume=args.resume)
    trainer.train()
