import json

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from PIL import Image

from enl_detectron2.analysis.detector import load_detector
from enl_detectron2.utils.errors import BadImage


@pytest.fixture
def trained_cfg(slim_cfg, tmp_path):
    """A configuration with weights, whose set to test on is in COCO format."""
    slim_cfg.MODEL.ROI_HEADS.NUM_CLASSES = 2
    torch.save({"model": build_model(slim_cfg).state_dict()}, tmp_path / "model.pth")
    slim_cfg.MODEL.WEIGHTS = str(tmp_path / "model.pth")
    slim_cfg.DATASETS.TEST = ("named",)
    slim_cfg.DATASETS.COCO_FORMAT = [["named", str(tmp_path / "named.json"), str(tmp_path)]]
    return slim_cfg


def test_classes_have_the_names_that_their_set_gives_them(trained_cfg, tmp_path, caplog):
    trained_cfg.MODEL.DEVICE = "cuda"  # or the CPU, where there is none
    detector = load_detector(trained_cfg.clone())
    assert detector.class_name(1) == "class 1"  # where the set isn't there
    assert not detector.model.training
    categories = [{"id": 3, "name": "cat"}, {"id": 5, "name": "dog"}]
    content = {"images": [], "annotations": [], "categories": categories}
    (tmp_path / "named.json").write_text(json.dumps(content))
    detector = load_detector(trained_cfg.clone())
    assert [detector.class_name(index) for index in (0, 1)] == ["cat", "dog"]
    categories.append({"id": 9, "name": "hen"})
    (tmp_path / "others.json").write_text(json.dumps(content))
    trained_cfg.DATASETS.TEST = ("others",)
    trained_cfg.DATASETS.COCO_FORMAT = [["others", str(tmp_path / "others.json"), str(tmp_path)]]
    assert load_detector(trained_cfg).class_name(1) == "class 1"
    assert "the set to test on has 3 classes, the model 2" in caplog.text


def test_images_are_read_as_for_a_test(trained_cfg, tmp_path):
    trained_cfg.INPUT.MIN_SIZE_TEST, trained_cfg.INPUT.MAX_SIZE_TEST = 80, 133
    pixels = np.arange(48 * 64).reshape(48, 64)
    Image.fromarray((pixels * 20).astype(np.uint16)).save(tmp_path / "deep.png")
    Image.fromarray((pixels % 256).astype(np.uint8)).save(tmp_path / "grey.png")
    Image.fromarray(np.zeros((1, 5000, 3), dtype=np.uint8)).save(tmp_path / "narrow.png")
    detector = load_detector(trained_cfg)
    record = detector.read(tmp_path / "grey.png")
    expected = detector.mapper({"file_name": str(tmp_path / "grey.png")})
    assert record.keys() == expected.keys() and torch.equal(record["image"], expected["image"])
    assert (record["height"], record["width"]) == (48, 64)
    with pytest.raises(BadImage, match="deep.png can't be read: its pixels have more than 8 bits"):
        detector.read(tmp_path / "deep.png")
    with pytest.raises(BadImage, match="narrow.png can't be used: 5000×1 pixels can't be resized"):
        detector.read(tmp_path / "narrow.png")
    trained_cfg.DATALOADER.DEEP_IMAGES = "rescale"
    image = load_detector(trained_cfg).read_image(tmp_path / "deep.png", "RGB")
    assert image.min() == 0 and image.max() == 255
