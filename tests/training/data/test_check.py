import json
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import ExifTags, Image

from enl_detectron2.training.data.coco_file import read_coco
from enl_detectron2.training.data.description import describe, suggest_anchor_size

TOOL = Path(__file__).parents[3] / "tools/check_dataset.py"


@pytest.fixture
def check(coco_set, run_tool):
    """The exit status of the command, and what it says."""

    def run(*extra):
        status, out, err = run_tool(TOOL, coco_set.file, coco_set.images, *extra)
        return status, out + err

    return run


def annotation(**values):
    return lambda content: content["annotations"][1].update(values)


def all_boxes(**values):
    return lambda content: [entry.update(values) for entry in content["annotations"]]


def image(**values):
    return lambda content: content["images"][1].update(values)


def append(key, **values):
    return lambda content: content[key].append({**content[key][1], **values})


def test_a_sound_set_has_no_findings(coco_set):
    assert coco_set.findings() == []
    for area in (1, 60.5, 120.9):  # of a mask, and rounded
        coco_set.change(annotation(area=area))
        assert coco_set.findings() == []
    coco_set.change(all_boxes(bbox=[0, 0, 1, 1], area=1))  # a pixel is no fraction
    assert coco_set.findings() == []


ERRORS = [
    (annotation(bbox=[20, 20, -5, 5]), "annotation 2 has a reversed box"),
    (annotation(bbox=[41, 3, 5, 5]), "annotation 2 has a box wholly outside"),
    (annotation(bbox=[1, 2, 3, float("nan")]), "annotation 2 has no box of four numbers"),
    (annotation(area=-1), "annotation 2 has an area .*: -1; --repair takes"),
    (annotation(iscrowd="no"), "annotation 2 has an iscrowd .* nor 1: 'no'"),
    (
        all_boxes(bbox=[0.1, 0.2, 0.3, 0.4]),
        "the file has boxes in fractions .*: all 3 lie between 0 and 1, the first one is .0.1",
    ),
    (annotation(image_id=None), "annotation 2 has no image_id: None"),
    (annotation(category_id=5), "annotation 2 is of a category .*category 5"),
    (annotation(id="two"), "annotation at place 1 has no number as its id: 'two'"),
    (append("annotations", id=1), "annotation 1 is there more than once"),
    (image(id="b"), "image 7 has a number as its id where others have .*'b'"),
    (image(id=True), "image at place 1 has no number as its id: True"),
    (image(width=40.5), "image 9 has no width and height above 0: 40.5×30"),
    (image(width=30, height=40), r"b.png: \(image 9\) has another size .*30×40 in"),
    (image(file_name=None), "image 9 has no file_name"),
    (lambda content: content["categories"][1].update(name=""), "category 2 has no name"),
    (lambda content: content["images"].clear(), "has no images"),
]
WARNINGS = [
    (annotation(bbox=[20, 20, 0, 5]), "annotation 2 has an empty box"),
    (annotation(bbox=[3, -3, 10, 5]), "annotation 2 has a box that sticks"),
    (annotation(bbox=[3, 3, 0.5, 9], area=4), "annotation 2 has a box below a pixel"),
    (annotation(area=1200), "annotation 2 has an area .*: 1200, but its box has 100; --repair"),
    (annotation(image_id=8), "annotation 2 is of an image .*image 8"),
    (annotation(id=0), "annotation 0 never counts as found"),
    (append("annotations", id=4), r"image 7 has one box .*\[30.5, 20, .*2 times"),
    (
        annotation(bbox=[0, 0, 5, 5], area=25, segmentation=[[0, 0, 30, 0, 30, 28, 0, 28]]),
        "annotation 2 has a box that isn't its mask's",
    ),
    (
        annotation(bbox=[0, 0, 9, 9], segmentation={"size": [30, 40], "counts": [1185, 15]}),
        r"annotation 2 has a box that .* but \[39.0, 15.0, 1.0, 15.0\] around",
    ),
    (all_boxes(bbox=[20, 16, 39, 29], area=99), "has boxes that look like two corners .*: 3 of 3"),
    (append("images", id=11), "image 11 shares its file with another image"),
    (image(file_name="../images/b.png"), "image 9 has .* leaves the image"),
    (image(neg_category_ids=[1]), "1 of its images say as in LVIS"),
    (append("categories", id=4, name="cow"), "1 of its 3 categories have no annotations: cow"),
    (append("categories", id=3), "category 3 shares its name: dog"),
]


@pytest.mark.parametrize(
    "change, said, is_error",
    [(*case, True) for case in ERRORS] + [(*case, False) for case in WARNINGS],
)
def test_a_fault_is_named_with_file_and_id(coco_set, change, said, is_error):
    coco_set.change(change)
    found = coco_set.findings()
    texts = [str(finding) for finding in found if finding.is_error == is_error]
    assert all(str(coco_set.folder) in text and text.isprintable() for text in texts)
    assert any(re.search(said, text) for text in texts), texts
    assert is_error or not any(finding.is_error for finding in found)


def test_a_key_twice_is_said(coco_set):
    text = json.dumps(coco_set.content).replace('"bbox"', '"bbox": [0, 0, 1, 1], "bbox"', 2)
    coco_set.file.write_text(text)
    [finding] = coco_set.findings()
    assert "more than once, of which the last one counts: 'bbox' in 2" in str(finding)


def test_a_photograph_upside_down_is_said(coco_set):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 3
    Image.open(coco_set.images / "b.png").save(coco_set.images / "b.png", exif=exif)
    [finding] = coco_set.findings()
    assert "b.png: (image 9) is turned by 180°" in str(finding) and not finding.is_error


def test_images_that_can_not_be_read_are_named(coco_set, check):
    file = coco_set.images / "b.png"
    content = file.read_bytes()
    file.write_bytes(content[: int(0.6 * len(content))])
    [finding] = coco_set.findings()
    assert str(finding).startswith(f"error: {file}: (image 9) can't be read: ")
    cv2.imwrite(str(file), np.full((30, 40), 4000, np.uint16))
    status, said = check()
    assert status == 1 and "can't be read: its pixels have more" in said
    assert check("--quick")[0] == check("--deep-images", "rescale")[0] == 0
    coco_set.file.write_text("{")
    status, said = check()
    assert status == 2 and ": error: " in said and said.count("\n") == 1


def test_colours_of_12_bits_in_16_are_said(coco_set):
    cv2.imwrite(str(coco_set.images / "b.png"), np.full((30, 40, 3), 4000, np.uint16))
    [finding] = coco_set.findings()
    assert not finding.is_error and "almost black: its largest value is 15 of 255" in str(finding)
    cv2.imwrite(str(coco_set.images / "b.png"), np.full((30, 40, 3), 60000, np.uint16))
    assert coco_set.findings() == []


def test_what_is_there_is_described(coco_set):
    coco_set.change(append("annotations", id=4, iscrowd=1))
    lines = describe(read_coco(coco_set.file)).splitlines()
    assert lines[1:4] == [
        "boxes               3, and 1 crowds",
        "  category 1: cat, 1 boxes",
        "  category 2: dog, 2 boxes",
    ]
    assert "  MODEL.ANCHOR_GENERATOR.SIZES [[8], [16], [32], [64], [128]]" in lines
    assert "  TEST.DETECTIONS_PER_IMAGE 100" in lines
    coco_set.write(coco_set.content | {"annotations": coco_set.content["annotations"] * 71})
    assert "TEST.DETECTIONS_PER_IMAGE 200" in describe(read_coco(coco_set.file))
    coco_set.change(lambda content: [entries.clear() for entries in content.values()])
    assert describe(read_coco(coco_set.file)).splitlines()[0] == "images              0"


@pytest.mark.parametrize("side, size", [(1, 4), (6, 8), (500, 32)])
def test_the_smallest_boxes_overlap_the_smallest_anchor_by_half(side, size):
    assert suggest_anchor_size([side] * 19 + [1000]) == size
    assert side < 2 or size / side < 2**0.5  # IoU of concentric squares above a half


def test_repair_gives_impossible_areas_the_boxs(coco_set, check):
    def break_all(content):
        for entry, area in zip(content["annotations"], (float("nan"), 1200, None)):
            entry["area"] = area
        del content["annotations"][2]["iscrowd"]
        content["annotations"][0] |= {"segmentation": [], "own": "kept", "ignore": 0}
        content["info"] = {"year": 2026}

    coco_set.change(break_all)
    before, new = coco_set.file.read_text(), coco_set.folder / "new.json"
    status, said = check("--repair", new)
    assert status == 1 and "new.json has the box's area for 3 annotations" in said
    assert coco_set.file.read_text() == before
    coco_set.content["annotations"][0] |= {"segmentation": [], "own": "kept", "ignore": 0}
    assert json.loads(new.read_text()) == coco_set.content | {"info": {"year": 2026}}
    new.replace(coco_set.file)
    assert check()[0] == 0
    # Never over a file that is there.
    status, said = check("--repair", coco_set.file)
    assert status == 2 and "set.json: it already exists" in said
    status, said = check("--repair", coco_set.folder / "no folder/new.json")
    assert status == 2 and "can't be written: No such file" in said
