import json

import cv2
import numpy as np
import pytest


@pytest.fixture
def write_truth(tmp_path):
    """Writes a ground truth of (image, category, box) objects, and its images, plain grey.

    All images are 100 × 80 pixels; returns the annotation file, beside which the images lie.
    """

    def write(objects, num_images=None):
        image_ids = range(1, (num_images or max(image for image, _, _ in objects)) + 1)
        categories = sorted({category for _, category, _ in objects})
        content = {
            "images": [
                {"id": i, "file_name": f"{i}.png", "height": 80, "width": 100} for i in image_ids
            ],
            "annotations": [
                # From 0, and with another area than the box's: neither must matter.
                {"id": i, "image_id": image, "category_id": category, "bbox": box, "area": 1}
                for i, (image, category, box) in enumerate(objects)
            ],
            "categories": [{"id": c, "name": f"class {c}"} for c in categories],
        }
        for image in image_ids:
            cv2.imwrite(str(tmp_path / f"{image}.png"), np.full((80, 100, 3), 128, dtype=np.uint8))
        path = tmp_path / "truth.json"
        path.write_text(json.dumps(content))
        return path

    return write


@pytest.fixture
def write_results(tmp_path):
    """Writes (image, category, box, score) detections as the COCO evaluator does."""

    def write(name, detections):
        keys = ("image_id", "category_id", "bbox", "score")
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps([dict(zip(keys, one)) for one in detections]))
        return path

    return write
