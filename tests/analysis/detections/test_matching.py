import json

import pytest

from enl_detectron2.analysis.detections.matching import (
    load_detections,
    load_truth,
    match,
    side_groups,
)
from enl_detectron2.utils.errors import ConfigError

BOX = [10, 10, 16, 16]


GOOD = {"image_id": 1, "category_id": 1, "bbox": BOX, "score": 1}


def matched(evaluation):
    """Whether each object that counts is found, for each range of sizes."""
    return [
        [bool(m) for m, ignored in zip(one["gtMatches"][0], one["gtIgnore"]) if not ignored]
        for one in evaluation.evalImgs
    ]


def test_sizes_are_those_of_boxes_and_limits_belong_to_the_upper_group(write_truth, write_results):
    truth = load_truth(write_truth([(1, 1, BOX), (1, 1, [40, 40, 8, 2])]))
    detections = load_detections(truth, write_results("a", [(1, 1, BOX, 0.9)]))
    evaluation = match(truth, detections, side_ranges=side_groups([8, 16]))
    assert matched(evaluation) == [[False], [], [True]]


def test_all_detections_count_however_many(write_truth, write_results):
    boxes = [[x, y, 4, 4] for x in range(0, 95, 5) for y in range(0, 75, 5)]
    assert len(boxes) > 200
    truth = load_truth(write_truth([(1, 1, box) for box in boxes]))
    found = [(1, 1, box, 0.5) for box in boxes]
    [all_of_them] = matched(match(truth, load_detections(truth, write_results("a", found))))
    assert all_of_them == [True] * len(boxes)
    none = load_detections(truth, write_results("b", found), score_threshold=0.6)
    assert not any(*matched(match(truth, none)))


@pytest.mark.parametrize(
    "content, message",
    [("[", "is not a complete JSON file"), ('{"images": [], "categories": []}', "has no images")],
)
def test_a_file_that_is_no_ground_truth_is_named(tmp_path, content, message):
    (tmp_path / "bad.json").write_text(content)
    with pytest.raises(ConfigError, match=f"bad.json.* {message}"):
        load_truth(tmp_path / "bad.json")


@pytest.mark.parametrize(
    "content, message",
    [
        ({}, "isn't a list of detected boxes, but a dict"),
        ([7], "entry 1 is a int"),
        ([GOOD, {"image_id": 1}], "entry 2 has no category_id"),
        ([GOOD | {"image_id": 9}], "entry 1 has the image_id 9, which the ground truth doesn't"),
        ([GOOD | {"category_id": 2}], "entry 1 has the category_id 2, which the ground truth"),
        ([GOOD | {"bbox": [1, 2, 3, -4]}], "entry 1 has the bbox [1, 2, 3, -4]"),
        ([GOOD | {"score": float("nan")}], "entry 1 has the score nan"),
    ],
)
def test_results_of_something_else_are_named(write_truth, tmp_path, content, message):
    truth = load_truth(write_truth([(1, 1, BOX)]))
    (tmp_path / "bad.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="bad.json isn't a list of") as refused:
        load_detections(truth, tmp_path / "bad.json")
    assert message in str(refused.value)


def test_what_is_of_no_image_is_counted_and_left_out(write_truth, tmp_path, caplog):
    content = json.loads(write_truth([(1, 1, BOX)]).read_text())
    good = content["annotations"][0]
    content["annotations"] += [good | {"id": 8, "image_id": 2}, good | {"id": 9, "image_id": "1"}]
    (tmp_path / "truth.json").write_text(json.dumps(content))
    truth = load_truth(tmp_path / "truth.json")
    assert [a["bbox"] for a in truth.anns.values()] == [BOX, BOX]  # image "1" is image 1
    assert "left out are 1 annotations" in caplog.text


def test_ids_may_be_spelled_or_texts(write_truth, write_results, tmp_path):
    content = json.loads(write_truth([(1, 1, BOX), (2, 1, BOX)]).read_text())
    results = [("1", "1", BOX, 0.9), (2.0, 1, BOX, 0.9)]
    truth = load_truth(tmp_path / "truth.json")
    evaluation = match(truth, load_detections(truth, write_results("spelled", results)))
    assert matched(evaluation) == [[True], [True]]
    for image, entry in zip(content["images"], content["annotations"]):
        image["id"] = entry["image_id"] = f"image {image['id']}"
    (tmp_path / "truth.json").write_text(json.dumps(content))
    truth = load_truth(tmp_path / "truth.json")
    texts = write_results("texts", [("image 1", 1, BOX, 0.9)])
    assert matched(match(truth, load_detections(truth, texts))) == [[True], [False]]
