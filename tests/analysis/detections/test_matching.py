import json

import pytest

from enl_detectron2.analysis.detections.matching import (
    load_detections,
    load_truth,
    match,
    side_groups,
)

BOX = [10, 10, 16, 16]


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
    assert matched(match(truth, load_detections(truth, write_results("a", found)))) == [
        [True] * len(boxes)
    ]


def test_no_detections_are_no_error(write_truth, write_results):
    truth = load_truth(write_truth([(1, 1, BOX)]))
    found = load_detections(truth, write_results("a", [(1, 1, BOX, 0.4)]), score_threshold=0.5)
    assert matched(match(truth, found)) == [[False]]


@pytest.mark.parametrize(
    "content, message",
    [
        ("[", "isn't JSON"),
        ("{}", "isn't a ground truth in COCO's format"),
        ("[1]", "isn't a ground truth in COCO's format"),
    ],
)
def test_a_file_that_is_no_ground_truth_is_named(tmp_path, content, message):
    (tmp_path / "bad.json").write_text(content)
    with pytest.raises(ValueError, match=f"bad.json {message}"):
        load_truth(tmp_path / "bad.json")


@pytest.mark.parametrize(
    "detection, message",
    [
        ({"image_id": 1, "category_id": 1, "segmentation": {}, "score": 1}, "isn't a list of"),
        ({"image_id": 9, "category_id": 1, "bbox": BOX, "score": 1}, "has the image 9"),
    ],
)
def test_results_of_something_else_are_named(write_truth, tmp_path, detection, message):
    truth = load_truth(write_truth([(1, 1, BOX)]))
    (tmp_path / "bad.json").write_text(json.dumps([detection]))
    with pytest.raises(ValueError, match=f"bad.json {message}"):
        load_detections(truth, tmp_path / "bad.json")
