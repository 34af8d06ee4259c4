import json

import cv2
import numpy as np
import pytest
from contact_sheet import BAND, GAP, PANEL, draw_contact_sheet
from PIL import ImageColor

from enl_detectron2.analysis.palette import MODEL_COLOURS, TRUTH_COLOUR
from enl_detectron2.training.data import register_coco_format


@pytest.fixture
def black_set(tmp_path):
    """A registered set of three black images with one object each."""
    size = {"width": 100, "height": 80}
    content = {
        "images": [{"id": i, "file_name": f"{i}.png", **size} for i in (1, 2, 3)],
        "annotations": [
            {"id": i, "image_id": i, "category_id": 7, "bbox": [10, 10, 20, 20]} for i in (1, 2, 3)
        ],
        "categories": [{"id": 7, "name": "thing"}],
    }
    (tmp_path / "truth.json").write_text(json.dumps(content))
    for image in (1, 2, 3):
        cv2.imwrite(str(tmp_path / f"{image}.png"), np.zeros((80, 100, 3), dtype=np.uint8))
    register_coco_format([["black", str(tmp_path / "truth.json"), str(tmp_path)]])
    return tmp_path


def coloured_pixels(sheet_file, colour):
    """How many pixels of a picture have a colour, in its left and its right half."""
    sheet = cv2.imread(str(sheet_file))[:, :, ::-1]
    there = (sheet == ImageColor.getrgb(colour)).all(axis=2)
    middle = sheet.shape[1] // 2
    return there[:, :middle].sum(), there[:, middle:].sum()


def test_draws_ground_truth_beside_the_detections_above_the_threshold(black_set):
    results, sheet = black_set / "results.json", black_set / "sheet.png"
    detection = {"image_id": 1, "category_id": 7, "bbox": [10, 10, 20, 20], "score": 0.9}
    results.write_text(json.dumps([detection, {**detection, "image_id": 2, "score": 0.1}]))
    draw_contact_sheet("black", results, sheet, num_images=1)
    left, right = coloured_pixels(sheet, TRUTH_COLOUR)
    assert left > 300 and right == 0  # 20 pixels of 100 are 96 of 480
    left, right = coloured_pixels(sheet, MODEL_COLOURS[0])
    assert left == 0 and right > 300
    results.write_text(json.dumps([{**detection, "score": 0.49}]))
    draw_contact_sheet("black", results, sheet, num_images=3)
    assert coloured_pixels(sheet, MODEL_COLOURS[0]) == (0, 0)
    # Three images fill two columns.
    assert cv2.imread(str(sheet)).shape[:2] == (2 * (384 + BAND), 4 * PANEL + 3 * GAP)
