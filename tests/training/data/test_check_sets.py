"""Whether the sets of a run fit it and each other, before anything starts."""

import json

import pytest
from detectron2.data.datasets import register_coco_instances
from tiny_training import read_losses, train, write_config, write_images, write_json

from enl_detectron2.training.data import check_data_sets, register_coco_format
from enl_detectron2.utils.errors import ConfigError

TRIANGLE = [[8, 8, 32, 8, 32, 32]]
RUN_LENGTHS = {"size": [48, 64], "counts": [100, 500, 2472]}
MASKS = ("MODEL.MASK_ON", "True", "SOLVER.MAX_ITER", 1)


@pytest.fixture
def named(tmp_path):
    """Registers a set of one object a category, given as {id: name}."""

    def register(name, categories, how=register_coco_format):
        path = tmp_path / name
        content = write_images(path, count=len(categories))
        content["categories"] = [{"id": id_, "name": text} for id_, text in categories.items()]
        for entry, id_ in zip(content["annotations"], categories):
            entry["category_id"] = id_
        write_json(path, content)
        if how is register_coco_format:
            register_coco_format([[name, str(path / "train.json"), str(path / "images")]])
        else:
            how(name, {}, str(path / "train.json"), str(path / "images"))
        return name

    return register


ANIMALS = {1: "cat", 2: "dog", 3: "cow"}
OTHERS = [
    ({1: "dog", 2: "cat", 3: "cow"}, r"class 0 is 'cat' \(category 1\) in 'one' and 'dog' .*"),
    ({1: "cat", 2: "dog"}, r"class 2 is 'cow' \(category 3\) in 'one' and none in 'other'$"),
    ({1: "cat", 3: "cow"}, "class 1 is 'dog' .* in 'one' and 'cow'"),
    ({0: "any"} | ANIMALS, "class 0 is 'cat' .* and 'any'"),
]


@pytest.mark.parametrize("categories, said", OTHERS)
@pytest.mark.parametrize("how", [register_coco_format, register_coco_instances])
def test_sets_that_differ_are_named_with_their_first_difference(named, categories, said, how):
    named("one", ANIMALS)
    named("other", categories, how)
    for uses in ((("one",), ("other",)), (("one", "other"), ()), ((), ("one", "other"))):
        with pytest.raises(ConfigError, match="must have the same categories .*" + said):
            check_data_sets(*uses)
    # Each by itself is sound.
    check_data_sets(("one",), ("one",), num_classes=3)
    check_data_sets(("other",), ("other",))


def test_photographs_that_are_trained_and_tested_on_are_counted(named, tmp_path, caplog):
    named("one", ANIMALS)
    named("new", ANIMALS)
    file, images = tmp_path / "one/train.json", tmp_path / "one/images"
    content = json.loads(file.read_text())
    names = [image["file_name"] for image in content["images"]]
    content["images"][0]["file_name"] = "../../new/images/" + names[1]
    (tmp_path / "part.json").write_text(json.dumps(content))
    register_coco_format([["part", str(tmp_path / "part.json"), str(images)]])
    check_data_sets(("one",), ("new",))
    assert "are trained on, too" not in caplog.text
    check_data_sets(("one",), ("one", "new"))
    assert caplog.text.count("photographs of 'one' are trained on, too") == 1
    check_data_sets(("one",), ("part",))
    assert f"2 of the 3 photographs of 'part' are trained on, too, such as {images}" in caplog.text


def test_built_in_sets_are_compared_by_what_is_known_of_them(named):
    named("one", ANIMALS)
    said = r"class 0 is 'cat' .* in 'one' and 'person' \(category 1\) in 'coco_2017_val'"
    with pytest.raises(ConfigError, match=said):
        check_data_sets(("one",), ("coco_2017_val",))
    check_data_sets(("coco_2017_train",), ("coco_2017_val",), num_classes=80)
    check_data_sets(("one",), ("a set of someone's code",))


def test_the_models_classes_are_the_sets(named):
    named("one", ANIMALS)
    key = {"num_classes_key": "model.roi_heads.num_classes"}
    with pytest.raises(
        ConfigError, match="^model.roi_heads.num_classes must be at least 3, .*'one', got 2"
    ):
        check_data_sets(("one",), (), num_classes=2, **key)
    with pytest.raises(ConfigError, match="num_classes must be 3, .*'one', got 4: the evaluation"):
        check_data_sets((), ("one",), num_classes=4, **key)
    # Sets that number alike may have other ids.
    named("other", {10: "cat", 20: "dog", 90: "cow"})
    named("texts", {"a": "cat", "b": "dog", "c": "cow"})
    check_data_sets(("one", "other"), ("texts",), num_classes=3)
    # Whoever only trains may have classes to spare, as detectron2 lets them.
    check_data_sets(("one",), (), num_classes=4, **key)


def with_masks(folder, *masks):
    content = write_images(folder, count=4)
    for entry, mask in zip(content["annotations"][1:3], masks):  # both are 64 wide, 48 high
        if mask is not None:
            entry["segmentation"] = mask
    content["images"] = content["images"][1:3]
    content["annotations"] = content["annotations"][1:3]
    write_json(folder, content)
    return write_config(folder)


@pytest.mark.parametrize("mask", [None, [[]], RUN_LENGTHS | {"size": [64, 48]}])
def test_masks_that_can_not_be_used_are_named_where_they_are_needed(tmp_path, mask):
    config = with_masks(tmp_path, TRIANGLE, mask)
    with pytest.raises(ConfigError, match="MASK_ON must be False .*1 of .*first of them 3$"):
        train(config, tmp_path / "losses", *MASKS)
    # Without them their boxes are trained on.
    train(config, tmp_path / "losses", "SOLVER.MAX_ITER", 1)
    assert len(read_losses(tmp_path / "losses")) == 1


def test_run_lengths_need_the_other_mask_format(tmp_path):
    config = with_masks(tmp_path, TRIANGLE, RUN_LENGTHS)
    with pytest.raises(
        ConfigError, match="INPUT.MASK_FORMAT must be 'bitmask' .* 1 of its masks .* annotation 3$"
    ):
        train(config, tmp_path / "losses", *MASKS)
    train(config, tmp_path / "losses", *MASKS, "INPUT.MASK_FORMAT", "bitmask")
    assert len(read_losses(tmp_path / "losses")) == 1
    # An evaluation takes either.
    check_data_sets((), (f"tiny {tmp_path}",), masks=True, mask_format="polygon")


def test_an_evaluation_of_masks_needs_the_crowds_too(tmp_path):
    with_masks(tmp_path, TRIANGLE, TRIANGLE)
    content = json.loads((tmp_path / "train.json").read_text())
    del content["annotations"][1]["segmentation"]
    content["annotations"][1]["iscrowd"] = 1
    write_json(tmp_path, content)
    register_coco_format([["crowd", str(tmp_path / "train.json"), str(tmp_path / "images")]])
    check_data_sets(("crowd",), (), masks=True)
    with pytest.raises(ConfigError, match="MASK_ON must be False .*first of them 3"):
        check_data_sets((), ("crowd",), masks=True)
