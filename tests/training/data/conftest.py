"""A small sound set, which tests change."""

import copy
import json

import cv2
import numpy as np
import pytest
from detectron2.data import DatasetCatalog

from enl_detectron2.training.data import register_coco_format
from enl_detectron2.training.data.check import check_annotations, check_images
from enl_detectron2.training.data.coco_file import read_coco


class CocoSet:
    """set.json, and images/ with two images of 40 × 30 and three boxes of two categories."""

    def __init__(self, folder):
        self.folder, self.file, self.images = folder, folder / "set.json", folder / "images"
        self.images.mkdir()
        boxes = ((7, 1, [0, 0, 10, 10]), (7, 2, [30.5, 20, 10, 10]), (9, 2, [5, 5, 8, 8]))
        self.content = {
            "images": [
                {"id": 7, "file_name": "ä.png", "width": 40, "height": 30},
                {"id": 9, "file_name": "b.png", "width": 40, "height": 30},
            ],
            "annotations": [
                {
                    "id": number,
                    "image_id": image,
                    "category_id": category,
                    "bbox": box,  # the second is half a pixel too far, as rounding does
                    "area": box[2] * box[3],
                    "iscrowd": 0,
                }
                for number, (image, category, box) in enumerate(boxes, start=1)
            ],
            "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
        }
        for image in self.content["images"]:
            cv2.imwrite(str(self.images / image["file_name"]), np.zeros((30, 40, 3), np.uint8))
        self.write(self.content)

    def write(self, content, **options):
        self.file.write_text(json.dumps(content, **options))

    def change(self, change):
        """Writes the sound content with a change to it."""
        content = copy.deepcopy(self.content)
        change(content)
        self.write(content)
        return content

    def findings(self):
        coco = read_coco(self.file, self.images)
        return check_annotations(coco) + check_images(coco)

    def register(self, **options):
        """detectron2's records, of the set "own"."""
        register_coco_format([["own", str(self.file), str(self.images)]], **options)
        return DatasetCatalog.get("own")


@pytest.fixture
def coco_set(tmp_path):
    return CocoSet(tmp_path)
