import copy
import json
import logging
import re
import runpy
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import ExifTags, Image

from enl_detectron2.training.data.check import check_annotations, check_images
from enl_detectron2.training.data.check_sets import require_sound
from enl_detectron2.training.data.coco_file import read_coco
from enl_detectron2.training.data.description import describe, suggest_anchor_size

TOOL = Path(__file__).parents[3] / "tools/check_dataset.py"
# Two images of 40 × 30 with three boxes of two categories.
CONTENT = {
    "images": [
        {"id": 7, "file_name": "a.png", "width": 40, "height": 30},
        {"id": 9, "file_name": "b.png", "width": 40, "height": 30},
    ],
    "annotations": [
        {
            "id": number,
            "image_id": image,
            "category_id": category,
            "bbox": box,
            "area": box[2] * box[3],
            "iscrowd": 0,
        }
        for number, image, category, box in (
            (1, 7, 1, [0, 0, 10, 10]),
            (2, 7, 2, [30.5, 20, 10, 10]),  # half a pixel too far, as rounding does
            (3, 9, 2, [5, 5, 8, 8]),
        )
    ],
    "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
}


@pytest.fixture
def folder(tmp_path):
    """A sound set: set.json, and images/ with its two images."""
    (tmp_path / "images").mkdir()
    for name in ("a.png", "b.png"):
        cv2.imwrite(str(tmp_path / "images" / name), np.zeros((30, 40, 3), np.uint8))
    (tmp_path / "set.json").write_text(json.dumps(CONTENT))
    return tmp_path


def changed(folder, change):
    content = copy.deepcopy(CONTENT)
    change(content)
    (folder / "set.json").write_text(json.dumps(content))


def findings(folder):
    coco = read_coco(folder / "set.json")
    return check_annotations(coco, folder / "images") + check_images(coco, folder / "images")


def run_tool(folder, *extra):
    """The exit status of the command."""
    arguments = [str(folder / "set.json"), str(folder / "images"), *extra]
    with pytest.raises(SystemExit) as stopped:
        runpy.run_path(str(TOOL))["main"](arguments)
    return stopped.value.code


def test_a_sound_set_has_no_findings(folder):
    assert findings(folder) == []


def test_an_area_may_be_that_of_a_mask_and_rounded(folder):
    for area in (1, 60.5, 100, 120.9):
        changed(folder, annotation(area=area))
        assert findings(folder) == []


def test_a_box_of_a_pixel_is_no_fraction(folder):
    changed(
        folder,
        lambda content: [a.update(bbox=[0, 0, 1, 1], area=1) for a in content["annotations"]],
    )
    assert findings(folder) == []


def test_a_missing_area_is_the_boxs_and_said_once(folder):
    changed(folder, lambda content: [a.pop("area") for a in content["annotations"]])
    (finding,) = findings(folder)
    assert "warning" in str(finding) and "3 of its annotations have no area" in str(finding)


def annotation(**values):
    return lambda content: content["annotations"][1].update(values)


def image(**values):
    return lambda content: content["images"][1].update(values)


def category(**values):
    return lambda content: content["categories"][1].update(values)


def append(key, **values):
    return lambda content: content[key].append({**content[key][1], **values})


ERRORS = {
    "reversed box": (annotation(bbox=[20, 20, -5, 5]), "annotation 2 has a reversed box"),
    "box outside": (annotation(bbox=[41, 3, 5, 5]), "annotation 2 has a box wholly outside"),
    "three numbers": (annotation(bbox=[1, 2, 3]), "annotation 2 has no box of four numbers"),
    "not a number": (annotation(bbox=[1, 2, 3, float("nan")]), "annotation 2 has no box of four"),
    "no area": (annotation(area=None), "annotation 2 has an area that is not a number"),
    "ignored": (annotation(ignore=1), "annotation 2 is to be ignored"),
    "area below 0": (annotation(area=-1), "annotation 2 has an area .*: -1; --repair takes"),
    "area no number": (annotation(area=float("nan")), "annotation 2 has an area .*: nan; --repair"),
    "iscrowd null": (annotation(iscrowd=None), "annotation 2 has an iscrowd .* nor 1: None"),
    "iscrowd a text": (annotation(iscrowd="0"), "annotation 2 has an iscrowd .* nor 1: '0'"),
    "keypoints of texts": (annotation(keypoints=["1", "2", "2"]), "annotation 2 has keypoints"),
    "fractions": (
        lambda content: [a.update(bbox=[0.1, 0.2, 0.3, 0.4]) for a in content["annotations"]],
        "the file has boxes in fractions .*: all 3 lie between 0 and 1, the first one is .0.1",
    ),
    "image_id null": (annotation(image_id=None), "annotation 2 has no image_id: None"),
    "texts and numbers": (image(id="b"), "image 7 has a number as its id where others have .*'b'"),
    "annotation id a word": (annotation(id="two"), "annotation at place 1 has no number as its id"),
    "width a word": (image(width="wide"), "image 9 has no width and height above 0: wide×30"),
    "half a pixel": (image(width=40.5), "image 9 has no width and height above 0: 40.5×30"),
    "a name with NUL": (image(file_name="b\0.png"), "is missing"),
    "a name with a line end": (
        image(file_name="b\n.png"),
        "b\N{REPLACEMENT CHARACTER}.png.*is missing",
    ),
    "a box of 400 digits": (annotation(bbox=[0, 0, 10**400, 8]), "annotation 2 has no box"),
    "unknown category": (annotation(category_id=5), "annotation 2 is of a category .*category 5"),
    "annotation twice": (append("annotations", id=1), "annotation 1 is there more than once"),
    "a boolean": (image(id=True), "image at place 1 has the id True"),
    "annotation without id": (annotation(id=None), "annotation at place 1 has no number as its id"),
    "image twice": (append("images", id=7, file_name="b.png"), "image 7 is there more than once"),
    "category twice": (append("categories", name="cow"), "category 2 is there more than once"),
    "missing image": (image(file_name="c.png"), r"c.png: \(image 9 of .*set.json\) is missing"),
    "no file name": (image(file_name=None), "image 9 has no file_name"),
    "no width": (image(width=0), "image 9 has no width and height above 0: 0×30"),
    "other size": (image(width=30, height=40), r"b.png: \(image 9\) has another size .*30×40 in"),
    "no name": (category(name=3), "category 2 has no name"),
    "no images": (lambda content: content["images"].clear(), "has no images"),
    "no categories": (lambda content: content["categories"].clear(), "has no categories"),
}
WARNINGS = {
    "empty box": (annotation(bbox=[20, 20, 0, 5]), "annotation 2 has an empty box"),
    "box sticks out": (annotation(bbox=[35, 3, 10, 5]), "annotation 2 has a box that sticks out"),
    "sticks out above": (annotation(bbox=[3, -3, 10, 5]), "annotation 2 has a box that sticks"),
    "area of the image": (annotation(area=1200), "annotation 2 has an area that isn't its object"),
    "area 0": (annotation(area=0), "annotation 2 has an area .*: 0, but its box has 100; --repair"),
    "flat polygon": (
        annotation(segmentation=[1, 1, 9, 1, 9, 9]),
        "annotation 2 has a segmentation that can't be used; .*: it is a list of numbers",
    ),
    "unknown image": (annotation(image_id=8), "annotation 2 is of an image .*image 8"),
    "annotation 0": (annotation(id=0), "annotation 0 never counts as found"),
    "file twice": (append("images", id=11), "image 11 shares its file with another image"),
    "category hole": (append("categories", id=4, name="cow"), "categories 1 to 4 are not numbered"),
    "unused": (append("categories", id=3, name="cow"), "category 3 has no annotations: cow"),
    "same name": (append("categories", id=3), "category 3 shares its name: dog"),
    "polygon elsewhere": (
        annotation(bbox=[0, 0, 5, 5], area=25, segmentation=[[0, 0, 30, 0, 30, 28, 0, 28]]),
        "annotation 2 has a box that isn't its polygons'",
    ),
    "below a pixel": (annotation(bbox=[3, 3, 0.5, 9], area=4), "annotation 2 has a box below a p"),
    "the same box": (append("annotations", id=4), r"image 7 has one box .*\[30.5, 20, .*2 times"),
    "two corners": (
        lambda content: [a.update(bbox=[20, 16, 39, 29], area=99) for a in content["annotations"]],
        "the file has boxes that look like two corners .*: 3 of 3",
    ),
    "out of the folder": (image(file_name="../images/b.png"), "image 9 has .* leaves the image"),
    "LVIS": (image(neg_category_ids=[1]), "1 of its images say as in LVIS"),
    "no annotations": (lambda content: content["annotations"].clear(), "has no annotations"),
}


@pytest.mark.parametrize("case", ERRORS)
def test_every_error_names_file_and_id(folder, case):
    change, message = ERRORS[case]
    changed(folder, change)
    errors = [str(finding) for finding in findings(folder) if finding.is_error]
    assert all(str(folder) in error and error.isprintable() for error in errors)
    assert any(re.search(message, error) for error in errors), errors


@pytest.mark.parametrize("case", WARNINGS)
def test_what_detectron2_copes_with_is_a_warning(folder, case):
    change, message = WARNINGS[case]
    changed(folder, change)
    found = findings(folder)
    assert not any(finding.is_error for finding in found)
    assert any(re.search(message, str(finding)) for finding in found), found


def test_a_key_twice_is_said(folder):
    text = json.dumps(CONTENT).replace('"bbox"', '"bbox": [0, 0, 1, 1], "bbox"', 2)
    (folder / "set.json").write_text(text)
    [finding] = findings(folder)
    assert "more than once, of which the last one counts: 'bbox' in 2" in str(finding)


def test_a_photograph_upside_down_is_said(folder):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 3
    Image.open(folder / "images/b.png").save(folder / "images/b.png", exif=exif)
    [finding] = findings(folder)
    assert "b.png: (image 9) is turned by 180°" in str(finding) and not finding.is_error


@pytest.mark.parametrize("kept", [0, 0.2, 0.6])
def test_an_image_that_can_not_be_read_is_named(folder, kept):
    image = folder / "images/b.png"
    content = image.read_bytes()
    image.write_bytes(content[: int(kept * len(content))])
    (finding,) = findings(folder)
    assert finding.is_error
    assert str(finding).startswith(f"error: {image}: (image 9) can't be read: ")


@pytest.mark.parametrize(
    "text, message",
    [
        (json.dumps(CONTENT)[:100], "set.json is not a complete JSON file, perhaps it was cut off"),
        ("", "set.json is not a complete JSON file"),
        ("[1, 2]", "set.json is not in COCO format: .* not a list"),
        (
            '{"images": []}',
            "set.json is not in COCO format: 'categories' must be a list of objects",
        ),
        ('{"images": {}, "categories": []}', "'images' must be a list of objects, but it isn't$"),
        ('{"images": [3], "categories": []}', "'images' must be a list of objects, but it isn't$"),
    ],
)
def test_another_file_gets_one_sentence(folder, capsys, text, message):
    (folder / "set.json").write_text(text)
    with pytest.raises(ValueError, match=message) as error:
        read_coco(folder / "set.json")
    assert "\n" not in str(error.value)
    assert run_tool(folder) == 2
    assert capsys.readouterr().err == f"error: {error.value}\n"


def test_what_is_there_is_described(folder):
    changed(folder, append("annotations", id=4, iscrowd=1))
    lines = describe(read_coco(folder / "set.json")).splitlines()
    assert lines[:6] == [
        "images              2",
        "boxes               3, and 1 crowds",
        "  category 1: cat, 1 boxes",
        "  category 2: dog, 2 boxes",
        "boxes by COCO size  small 100.0 %, medium 0.0 %, large 0.0 %",
        "objects per image   median 1.5, mean 1.5, at most 2; 0 images have none",
    ]
    assert "  MODEL.ANCHOR_GENERATOR.SIZES [[8], [16], [32], [64], [128]]" in lines
    assert "  TEST.DETECTIONS_PER_IMAGE 100" in lines


def test_a_crowded_image_raises_the_detections_limit(folder):
    def crowd(content):
        content["annotations"] *= 71

    changed(folder, crowd)
    assert "TEST.DETECTIONS_PER_IMAGE 200" in describe(read_coco(folder / "set.json"))


@pytest.mark.parametrize("side, size", [(1, 4), (5, 6), (6, 8), (23, 32), (500, 32)])
def test_the_smallest_boxes_overlap_the_smallest_anchor_by_half(side, size):
    assert suggest_anchor_size([side] * 19 + [1000]) == size
    assert side < 2 or size / side < 2**0.5  # IoU of concentric squares above a half


def test_a_set_without_anything_is_described(folder):
    changed(folder, lambda content: [entries.clear() for entries in content.values()])
    assert describe(read_coco(folder / "set.json")).splitlines()[0] == "images              0"


def test_the_commands_exit_status(folder, capsys):
    assert run_tool(folder) == 0
    assert "0 errors, 0 warnings" in capsys.readouterr().out
    changed(folder, annotation(bbox=[20, 20, 0, 5]))
    assert run_tool(folder) == 0
    assert "0 errors, 1 warnings" in capsys.readouterr().out
    changed(folder, annotation(bbox=[20, 20, -1, 5]))
    assert run_tool(folder) == 1
    assert "error: " in capsys.readouterr().out
    changed(folder, image(width=30))
    assert run_tool(folder, "--quick") == 0
    assert run_tool(folder) == 1
    assert run_tool(folder / "nowhere") == 2


def test_repair_gives_impossible_areas_the_boxs(folder, capsys):
    def break_all(content):
        for entry, area in zip(content["annotations"], (float("nan"), 1200, None)):
            entry["area"] = area
        del content["annotations"][2]["area"], content["annotations"][2]["iscrowd"]
        content["annotations"][0] |= {"segmentation": [[]], "own": "kept"}
        content["info"] = {"year": 2026}

    changed(folder, break_all)
    before = (folder / "set.json").read_text()
    assert run_tool(folder, "--repair", str(folder / "new.json")) == 1
    assert "new.json has the box's area for 3 annotations" in capsys.readouterr().out
    assert (folder / "set.json").read_text() == before
    expected = copy.deepcopy(CONTENT) | {"info": {"year": 2026}}
    expected["annotations"][0] |= {"segmentation": [[]], "own": "kept"}
    assert json.loads((folder / "new.json").read_text()) == expected
    (folder / "new.json").replace(folder / "set.json")
    assert run_tool(folder) == 0
    # Never over a file that is there.
    assert run_tool(folder, "--repair", str(folder / "set.json")) == 2
    assert "set.json can't be written: it already exists" in capsys.readouterr().err
    assert run_tool(folder, "--repair", str(folder / "no folder/new.json")) == 2
    assert "can't be written: No such file" in capsys.readouterr().err


def test_deep_images_are_errors_unless_they_are_rescaled(folder):
    cv2.imwrite(str(folder / "images/b.png"), np.full((30, 40), 4000, np.uint16))
    (finding,) = findings(folder)
    assert finding.is_error and "b.png: (image 9) can't be read: its pixels have" in str(finding)
    assert run_tool(folder) == 1
    assert run_tool(folder, "--deep-images", "rescale") == 0


def test_before_training_errors_stop_and_warnings_are_logged(folder, caplog):
    arguments = "own", folder / "set.json", folder / "images"
    changed(folder, annotation(bbox=[20, 20, 0, 5]))
    with caplog.at_level(logging.WARNING):
        require_sound(*arguments)
    assert "annotation 2 has an empty box" in caplog.text
    changed(folder, lambda content: [a.update(bbox=[1, 1, -1, 1]) for a in content["annotations"]])
    with pytest.raises(
        ValueError, match="'own' can't be used with 3 errors such as .*annotation 1"
    ):
        require_sound(*arguments)
    (folder / "set.json").write_text("{")
    with pytest.raises(
        ValueError, match="DATASETS.COCO_FORMAT: 'own': .*is not a complete JSON file"
    ):
        require_sound(*arguments)
