"""Models that are run by their configuration, where a command compares results."""

import csv
import json
from pathlib import Path

import pytest

from enl_detectron2.analysis.detections.matching import load_truth
from enl_detectron2.analysis.detections.results import category_ids
from enl_detectron2.analysis.detector import Detector

TOOL = Path(__file__).parents[3] / "tools/analyze_errors.py"


def test_models_are_run_whole_and_tiled(slim_model, write_truth, tmp_path, run_tool, caplog):
    truth = write_truth([(1, 1, [10, 10, 20, 20]), (1, 4, [50, 10, 20, 20]), (2, 9, [5, 5, 9, 9])])
    numbers = []
    for name, tile in (("whole", 0), ("tiled", 60)):
        words = ["--annotations", truth, "--images", tmp_path, "--output", tmp_path / name]
        status, _, said = run_tool(TOOL, *words, "--tile", tile, "--model", "a", *slim_model)
        assert status == 0, said
        limit = "100 detections in a tile" if tile > 0 else "100 detections, as many"
        assert "a: " in caplog.text and limit in caplog.text
        found = json.loads((tmp_path / name / "results_1.json").read_text())
        assert {one["category_id"] for one in found} <= {1, 4, 9}
        assert {one["image_id"] for one in found} == {1, 2}
        numbers.append(len(found))
        with open(tmp_path / name / "errors.csv") as file:
            assert {row["model"] for row in csv.DictReader(file)} == {"a"}
    assert numbers[1] > numbers[0]
    words = ["--annotations", truth, "--output", tmp_path / "out", "--model", "a", *slim_model]
    assert "--model needs the --images" in run_tool(TOOL, *words)[2]


def test_classes_are_found_by_name_or_order(write_truth, caplog):
    truth = load_truth(write_truth([(1, 3, [1, 1, 9, 9]), (1, 7, [1, 1, 9, 9])]))
    assert category_ids(Detector(None, None, ["class 7", "class 3"]), truth, "a") == [7, 3]
    assert not caplog.text
    assert category_ids(Detector(None, None, ["cat", "dog"]), truth, "a") == [3, 7]
    assert "in the order of the ids: cat for class 3, dog for class 7" in caplog.text
    three = type("Model", (), {"num_classes": 3})
    with pytest.raises(ValueError, match="'a' has 3 classes, but the ground truth 2 categories"):
        category_ids(Detector(three, None, []), truth, "a")
