import json

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import build_model

from enl_detectron2.analysis.detector import load_detector


@pytest.fixture
def trained_cfg(slim_cfg, tmp_path):
    """A configuration with weights, whose set to test on is in COCO format."""
    slim_cfg.MODEL.ROI_HEADS.NUM_CLASSES = 2
    torch.save({"model": build_model(slim_cfg).state_dict()}, tmp_path / "model.pth")
    slim_cfg.MODEL.WEIGHTS = str(tmp_path / "model.pth")
    slim_cfg.DATASETS.TEST = ("named",)
    slim_cfg.DATASETS.COCO_FORMAT = [["named", str(tmp_path / "named.json"), str(tmp_path)]]
    yield slim_cfg
    if "named" in DatasetCatalog.list():
        DatasetCatalog.remove("named")
        MetadataCatalog.remove("named")


def test_classes_have_the_names_that_their_set_gives_them(trained_cfg, tmp_path):
    categories = [{"id": 3, "name": "cat"}, {"id": 5, "name": "dog"}]
    content = {"images": [], "annotations": [], "categories": categories}
    (tmp_path / "named.json").write_text(json.dumps(content))
    detector = load_detector(trained_cfg)
    assert [detector.class_name(index) for index in (0, 1)] == ["cat", "dog"]


def test_classes_have_numbers_where_the_set_is_not_there(trained_cfg):
    trained_cfg.MODEL.DEVICE = "cuda"  # or the CPU, where there is none
    trained_cfg.freeze()
    detector = load_detector(trained_cfg)
    assert detector.class_name(1) == "class 1"
    assert not detector.model.training


def test_weights_are_those_of_the_file(trained_cfg):
    stored = torch.load(trained_cfg.MODEL.WEIGHTS)["model"]
    loaded = load_detector(trained_cfg).model.state_dict()
    assert all(torch.equal(loaded[name].cpu(), value) for name, value in stored.items())
    trained_cfg.MODEL.WEIGHTS = ""
    with pytest.raises(ValueError, match="MODEL.WEIGHTS is empty"):
        load_detector(trained_cfg)
