"""Whether the sets of a run fit it and each other, before anything starts."""

import copy
import json

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from tiny_training import arguments, read_losses, train, write_config, write_images, write_json

from enl_detectron2.training.data import check_data_sets, register_coco_format
from enl_detectron2.training.launch import run
from enl_detectron2.utils.errors import ConfigError

TRIANGLE = [[8, 8, 32, 8, 32, 32]]
RUN_LENGTHS = {"size": [48, 64], "counts": [100, 500, 2472]}


@pytest.fixture
def folder(tmp_path):
    """Registered sets are forgotten afterwards."""
    before = set(DatasetCatalog.list())
    yield tmp_path
    for name in set(DatasetCatalog.list()) - before:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


@pytest.fixture
def named(folder):
    """Registers a set of one object a category, given as {id: name}."""

    def register(name, categories, how=register_coco_format):
        path = folder / name
        path.mkdir()
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
OTHERS = {
    "numbered in another order": (
        {1: "dog", 2: "cat", 3: "cow"},
        r"class 0 is 'cat' \(category 1\) in 'one' and 'dog' \(category 1\) in 'other'$",
    ),
    "another name": ({1: "cat", 2: "dog", 3: "sheep"}, "class 2 is 'cow' .* and 'sheep'"),
    "lacks the last": (
        {1: "cat", 2: "dog"},
        r"'one' has 'cow' \(category 3\) as class 2 and 'other' has 2 categories only$",
    ),
    "lacks another": ({1: "cat", 3: "cow"}, "class 1 is 'dog' .* in 'one' and 'cow'"),
    "has one more": (ANIMALS | {4: "sheep"}, "'other' has 'sheep' .* as class 3 and 'one' has 3"),
    "has one more before": ({0: "any"} | ANIMALS, "class 0 is 'cat' .* and 'any'"),
}


@pytest.mark.parametrize("case", OTHERS)
@pytest.mark.parametrize("how", [register_coco_format, register_coco_instances])
@pytest.mark.parametrize(
    "uses", [(("one",), ("other",)), (("one", "other"), ()), ((), ("one", "other"))]
)
def test_sets_that_differ_are_named_with_their_first_difference(named, case, how, uses):
    categories, said = OTHERS[case]
    named("one", ANIMALS)
    named("other", categories, how)
    with pytest.raises(ConfigError, match="must have the same categories .*" + said) as error:
        check_data_sets(*uses)
    assert "\n" not in str(error.value)
    # Each by itself is sound.
    check_data_sets(("one",), ("one",), num_classes=3)
    check_data_sets(("other",), ("other",))


def test_sets_that_number_alike_may_have_other_ids(named):
    named("one", ANIMALS)
    named("other", {10: "cat", 20: "dog", 90: "cow"})
    named("texts", {"a": "cat", "b": "dog", "c": "cow"})
    check_data_sets(("one", "other"), ("texts",), num_classes=3)


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
    # Whoever only trains may have classes to spare, as detectron2 lets them.
    check_data_sets(("one",), (), num_classes=4, **key)


def test_a_run_says_so_before_anything_starts(folder):
    (folder / "train").mkdir(), (folder / "test").mkdir()
    content = write_images(folder / "train")
    write_json(folder / "test", content)
    config = write_config(folder / "train")
    other = copy.deepcopy(content)
    other["categories"][0]["name"] = "another"
    write_json(folder / "test", other)
    (folder / "test/train.json").rename(folder / "other.json")
    name = f"tiny {folder / 'train'}"
    sets = [
        [name, str(folder / "train/train.json"), str(folder / "train/images")],
        ["other", str(folder / "other.json"), str(folder / "train/images")],
    ]
    words = ("DATASETS.COCO_FORMAT", sets, "DATASETS.TEST", "('other',)")
    with pytest.raises(ConfigError, match="class 0 is 'thing' .* and 'another'"):
        run(arguments(config, *words))


def with_masks(folder, *masks):
    content = write_images(folder, count=4)
    for entry, mask in zip(content["annotations"][1:3], masks):  # both are 64 wide, 48 high
        if mask is not None:
            entry["segmentation"] = mask
    content["images"] = content["images"][1:3]
    content["annotations"] = content["annotations"][1:3]
    write_json(folder, content)
    return write_config(folder)


MASKS = ("MODEL.MASK_ON", "True", "SOLVER.MAX_ITER", 1)


@pytest.mark.parametrize(
    "mask, said",
    [
        (None, "is empty"),
        ([[]], "has a polygon of fewer than 3 points"),
        (TRIANGLE[0], "is a list of numbers, not a list of polygons"),
        ([[0, 0, 1e30, 0, 1e30, 1e30]], "has coordinates that are no numbers or beyond"),
        (RUN_LENGTHS | {"size": [64, 48]}, "is of an image of 48×64 pixels"),
    ],
)
def test_masks_that_can_not_be_used_are_named_where_they_are_needed(folder, mask, said):
    config = with_masks(folder, TRIANGLE, mask)
    with pytest.raises(
        ConfigError, match=f"MASK_ON must be False .*1 of .*first of them 3, whose .* {said}"
    ):
        train(config, folder / "losses", *MASKS)
    # Without them their boxes are trained on.
    train(config, folder / "losses", "SOLVER.MAX_ITER", 1)
    assert len(read_losses(folder / "losses")) == 1


def test_run_lengths_need_the_other_mask_format(folder):
    config = with_masks(folder, TRIANGLE, RUN_LENGTHS)
    with pytest.raises(
        ConfigError, match="INPUT.MASK_FORMAT must be 'bitmask' .* 1 of its masks .* annotation 3$"
    ):
        train(config, folder / "losses", *MASKS)
    train(config, folder / "losses", *MASKS, "INPUT.MASK_FORMAT", "bitmask")
    assert len(read_losses(folder / "losses")) == 1
    # An evaluation takes either.
    check_data_sets((), (f"tiny {folder}",), masks=True, mask_format="polygon")


def test_an_evaluation_of_masks_needs_the_crowds_too(folder):
    with_masks(folder, TRIANGLE, TRIANGLE)
    content = json.loads((folder / "train.json").read_text())
    del content["annotations"][1]["segmentation"]
    content["annotations"][1]["iscrowd"] = 1
    write_json(folder, content)
    register_coco_format([["crowd", str(folder / "train.json"), str(folder / "images")]])
    check_data_sets(("crowd",), (), masks=True)
    with pytest.raises(ConfigError, match="MASK_ON must be False .*first of them 3"):
        check_data_sets((), ("crowd",), masks=True)
