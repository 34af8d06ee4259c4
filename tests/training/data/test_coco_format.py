import json

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from enl_detectron2.training.data import register_coco_format


@pytest.fixture
def coco_set(tmp_path):
    """A set of one empty image in tmp_path; its names are forgotten afterwards."""
    before = set(DatasetCatalog.list())
    (tmp_path / "images").mkdir()
    content = {
        "images": [{"id": 1, "file_name": "a.png", "height": 8, "width": 8}],
        "annotations": [],
        "categories": [{"id": 1, "name": "thing"}],
    }
    (tmp_path / "set.json").write_text(json.dumps(content))
    yield tmp_path
    for name in set(DatasetCatalog.list()) - before:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def test_registers_for_training_and_testing(coco_set):
    register_coco_format([["own", str(coco_set / "set.json"), str(coco_set / "images")]])
    (record,) = DatasetCatalog.get("own")
    assert record["file_name"] == str(coco_set / "images" / "a.png")
    assert MetadataCatalog.get("own").thing_classes == ["thing"]
    assert MetadataCatalog.get("own").evaluator_type == "coco"


@pytest.mark.parametrize("by_variable", [True, False])
def test_relative_paths(coco_set, monkeypatch, tmp_path_factory, by_variable):
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere") if by_variable else coco_set)
    if by_variable:
        monkeypatch.setenv("DETECTRON2_DATASETS", str(coco_set))
    else:
        # A folder of data sets that lacks this one doesn't hide the working directory.
        monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path_factory.mktemp("datasets")))
    register_coco_format([["own", "set.json", "images"]])
    assert MetadataCatalog.get("own").json_file == str(coco_set / "set.json")


def test_the_same_set_may_be_registered_again(coco_set):
    entry = ["own", str(coco_set / "set.json"), str(coco_set / "images")]
    register_coco_format([entry])
    register_coco_format([entry])


def test_a_name_can_not_stand_for_two_sets(coco_set):
    (coco_set / "other.json").write_text((coco_set / "set.json").read_text())
    register_coco_format([["own", str(coco_set / "set.json"), str(coco_set / "images")]])
    with pytest.raises(ValueError, match="'own' stands for .*set.json already"):
        register_coco_format([["own", str(coco_set / "other.json"), str(coco_set / "images")]])


@pytest.mark.parametrize(
    "json_file, folder, message",
    [
        ("no.json", "images", "'own' has no annotation file no.json in .*"),
        ("set.json", "no_images", "'own' has no image folder no_images in .*"),
        ("images", "images", "'own' has no annotation file images in .*"),
    ],
)
def test_what_is_missing_is_named_with_where_it_was_looked_for(
    coco_set, monkeypatch, json_file, folder, message
):
    monkeypatch.delenv("DETECTRON2_DATASETS", raising=False)
    monkeypatch.chdir(coco_set)
    with pytest.raises(FileNotFoundError, match=message + str(coco_set)):
        register_coco_format([["own", json_file, folder]])
    assert "own" not in DatasetCatalog.list()


@pytest.mark.parametrize("entry", [["own", "set.json"], ["own", "set.json", 3], []])
def test_an_entry_is_three_strings(entry):
    with pytest.raises(ValueError, match="takes .name, annotation file, image folder."):
        register_coco_format([entry])
