import json

import cv2
import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from enl_detectron2.analysis.detections.contact_sheet import draw_contact_sheet
from enl_detectron2.training.data import register_coco_format


@pytest.fixture
def black_set(tmp_path):
    """A registered set of three black images with one object each."""
    for index in range(3):
        cv2.imwrite(str(tmp_path / f"{index}.png"), np.zeros((60, 80, 3), dtype=np.uint8))
    content = {
        "images": [{"id": i, "file_name": f"{i}.png", "height": 60, "width": 80} for i in range(3)],
        "annotations": [
            {
                "id": i + 1,
                "image_id": i,
                "category_id": 7,
                "bbox": [10, 10, 20, 20],
                "area": 400,
                "iscrowd": 0,
            }
            for i in range(3)
        ],
        "categories": [{"id": 7, "name": "thing"}],
    }
    (tmp_path / "set.json").write_text(json.dumps(content))
    register_coco_format([["black", str(tmp_path / "set.json"), str(tmp_path)]])
    yield tmp_path
    DatasetCatalog.remove("black")
    MetadataCatalog.remove("black")


def coloured_pixels(sheet_file, rgb):
    """How many pixels of a picture are near a colour, in its left and its right half."""
    sheet = cv2.imread(str(sheet_file))[:, :, ::-1].astype(int)
    near = np.abs(sheet - np.array(rgb)).max(axis=2) < 30
    middle = sheet.shape[1] // 2
    return near[:, : middle // 2].sum(), near[:, middle // 2 : middle].sum()


def test_draws_ground_truth_beside_the_detections_above_the_threshold(black_set):
    # Half of each colour: the visualizer draws boxes half transparent, here over black.
    blue, orange = (0x2B, 0x5A, 0x74), (0x73, 0x4F, 0x00)
    results, sheet = black_set / "results.json", black_set / "sheet.png"
    detection = {"image_id": 0, "category_id": 7, "bbox": [10, 10, 20, 20], "score": 0.9}
    results.write_text(json.dumps([detection, {**detection, "image_id": 1, "score": 0.1}]))
    draw_contact_sheet("black", results, sheet, num_images=1)
    left, right = coloured_pixels(sheet, blue)
    assert left > 50 and right == 0
    left, right = coloured_pixels(sheet, orange)
    assert left == 0 and right > 50
    results.write_text(json.dumps([{**detection, "score": 0.49}]))
    draw_contact_sheet("black", results, sheet, num_images=1)
    assert coloured_pixels(sheet, orange) == (0, 0)


def test_an_odd_number_of_images_fits(black_set):
    (black_set / "results.json").write_text("[]")
    draw_contact_sheet("black", black_set / "results.json", black_set / "sheet.png", num_images=3)
    assert cv2.imread(str(black_set / "sheet.png")) is not None
