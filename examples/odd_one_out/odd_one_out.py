"""A relation block and a data set of this project's own."""

from pathlib import Path

import cv2
import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode
from torch import nn
from torch.nn import functional as F

import enl_detectron2
from enl_detectron2.layers import RelationBlock, inside

SIZE = 96  # of an image, pixels
CLASSES = ["alike", "odd"]
NUM_IMAGES = {"train": 200, "test": 40}


@enl_detectron2.modeling.RELATION_BLOCK_REGISTRY.register()
class DifferenceBlock(RelationBlock):
    """Compares each position with the whole image: z = x + out(relu(d(x - mean x)))."""

    def __init__(self, channels, *, reduction=2):  # MODEL.ENL_FPN.BLOCK_OPTIONS.reduction
        super().__init__()
        self.reduction = reduction  # as each option, an attribute of its name
        self.difference = nn.Conv2d(channels, channels // reduction, kernel_size=1)
        self.out = nn.Conv2d(channels // reduction, channels, kernel_size=1)

    def forward(self, x, extent=None):
        mean = x.mean(dim=(2, 3), keepdim=True)
        if extent is not None:  # an image ends before its map does: the rest is padding
            own = inside(extent, x)
            mean = (x * own).sum(dim=(2, 3), keepdim=True) / own.sum(dim=(2, 3), keepdim=True)
        return x + self.out(F.relu(self.difference(x - mean)))

    def zero_init(self):
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)


def draw(rng):
    """Squares of one grey but for one of another: by itself, none is the odd one."""
    image = np.full((SIZE, SIZE, 3), 128, dtype=np.uint8)
    greys = rng.permutation([40, 220])
    cells = rng.permutation(9)[: rng.integers(4, 8)]
    annotations = []
    for index, cell in enumerate(cells):
        side = int(rng.integers(12, 20))
        x, y = (int(32 * (cell // n % 3) + rng.integers(2, 30 - side)) for n in (1, 3))
        odd = int(index == 0)
        image[y : y + side, x : x + side] = greys[odd]
        annotations.append(
            {"bbox": [x, y, side, side], "bbox_mode": BoxMode.XYWH_ABS, "category_id": odd}
        )
    return image, annotations


def load(split, folder):
    """Draws the images if they aren't there, always the same ones."""
    rng = np.random.default_rng(list(NUM_IMAGES).index(split))
    folder.mkdir(parents=True, exist_ok=True)
    records = []
    for index in range(NUM_IMAGES[split]):
        image, annotations = draw(rng)
        path = folder / f"{index}.png"
        if not path.exists():
            cv2.imwrite(str(path), image)
        record = {"file_name": str(path), "image_id": index, "height": SIZE, "width": SIZE}
        records.append({**record, "annotations": annotations})
    return records


def register(folder):
    for split in NUM_IMAGES:
        name, path = f"odd_one_out_{split}", Path(folder, split)
        DatasetCatalog.register(name, lambda split=split, path=path: load(split, path))
        MetadataCatalog.get(name).set(thing_classes=CLASSES, evaluator_type="coco")
