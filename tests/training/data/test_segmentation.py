"""Which masks can be used, by what is wrong with the others."""

import numpy as np
import pycocotools.mask
import pytest
from enl_detectron2.training.data.segmentation import usable_segmentation

SIZE = (30, 40)
TRIANGLE = [1, 1, 9, 1, 9, 9.5]
FAULTS = {
    "nothing": ([], "is empty"),
    "null": (None, "is empty"),
    "an empty polygon": ([[]], "has a polygon of fewer than 3 points"),
    "two points": ([[1, 1, 9, 9]], "has a polygon of fewer than 3 points"),
    "an odd length": ([[1, 1, 9, 1, 9, 9, 4]], "has a polygon with an odd number"),
    "points": ([[[1, 1], [9, 1], [9, 9]]], "has points within polygons"),
    "six points": ([[[1, 1]] * 6], "has points within polygons"),
    "points by name": ([[{"x": 1, "y": 2}] * 6], "has points within polygons"),
    "texts": ([["1", "1", "9", "1", "9", "9"]], "has polygons of other things than numbers"),
    "nulls": ([[None] * 6], "has polygons of other things than numbers"),
    "truths": ([[True] * 6], "has polygons of other things than numbers"),
    "a text": ("1,1,9,1,9,9", "is a str, not a list of polygons"),
    "a number": (3, "is a int, not a list of polygons"),
    "a list of texts": (["1,1,9,1,9,9"], "holds a str where a polygon should be"),
    "VIA's flat list": (TRIANGLE, "is a list of numbers, not a list of polygons"),
    "1e30": ([[0, 0, 1e30, 0, 1e30, 1e30]], "has coordinates that are no numbers or beyond 1,000"),
    "-1e30": ([[0, 0, -1e30, 0, 9, 9]], "has coordinates"),
    "not a number": ([[1, float("nan"), 9, 1, 9, 9]], "has coordinates"),
    "infinite": ([[1, float("inf"), 9, 1, 9, 9]], "has coordinates"),
    "a large integer": ([[1, 10**400, 9, 1, 9, 9]], "has coordinates"),
    "no size": ({"counts": [1200]}, "has no size"),
    "text size": ({"counts": [1200], "size": ["30", "40"]}, "has no size"),
    "another size": ({"counts": [1200], "size": [40, 30]}, "is of an image of 30×40 pixels"),
    "too short": ({"counts": [1100], "size": [30, 40]}, "has run lengths of 1100 pixels in all"),
    "too long": ({"counts": [2**32, 5], "size": [30, 40]}, "has run lengths of 4294967301"),
    "below 0": ({"counts": [1300, -100], "size": [30, 40]}, "has no run lengths"),
    "no counts": ({"size": [30, 40]}, "has no run lengths"),
    "odd text": ({"counts": "hello", "size": [30, 40]}, "has "),
    "cut text": ({"counts": "`", "size": [30, 40]}, "has no run lengths"),
    "another script": ({"counts": "図", "size": [30, 40]}, "has no run lengths"),
}


@pytest.mark.parametrize("case", FAULTS)
def test_what_can_not_be_used_is_reported(case):
    segmentation, said = FAULTS[case]
    usable, fault = usable_segmentation(segmentation, SIZE)
    assert usable is None and fault.startswith(said)


def test_polygons_are_used_without_the_broken_ones_among_them():
    assert usable_segmentation([TRIANGLE], SIZE) == ([TRIANGLE], "")
    usable, fault = usable_segmentation([[1, 1], TRIANGLE, [[]], TRIANGLE], None)
    assert usable == [TRIANGLE, TRIANGLE] and "fewer than 3 points" in fault


@pytest.mark.parametrize("seed", range(20))
def test_run_lengths_are_read_as_pycocotools_writes_them(seed):
    rng = np.random.default_rng(seed)
    mask = rng.random(SIZE) < rng.random()
    mask[: rng.integers(1, 30)] = seed % 2
    encoded = pycocotools.mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    text = {"size": encoded["size"], "counts": encoded["counts"].decode()}
    assert usable_segmentation(text, SIZE) == (text, "")
    assert usable_segmentation(text, None)[1] == ""
    # The same as numbers.
    changes = np.flatnonzero(np.diff(mask.ravel(order="F").astype(int))) + 1
    counts = np.diff([0, *changes, mask.size]).tolist()
    counts = [0, *counts] if mask[0, 0] else counts
    numbers = {"size": list(SIZE), "counts": counts}
    assert usable_segmentation(numbers, SIZE) == (numbers, "")
    assert pycocotools.mask.frPyObjects(numbers, *SIZE)["counts"] == encoded["counts"]
