import pytest
import torch
from detectron2.structures import Boxes, Instances

PHOTOGRAPH = "fluorescence_small"  # 256×256, the least work


@pytest.fixture
def script():
    import padding

    return padding


def instances(boxes, scores):
    found = Instances((100, 100))
    found.pred_boxes, found.scores = Boxes(torch.tensor(boxes)), torch.tensor(scores)
    return found


def test_every_system_gives_a_line(script, monkeypatch):
    monkeypatch.setattr(script, "SYSTEMS", {name: script.SYSTEMS[name] for name in ["ENL"]})
    [row] = script.rows("ENL", [script.PHOTOGRAPHS / f"{PHOTOGRAPH}.jpg"])
    assert set(row["by_level"]) == {"p3", "p4", "p5"}
    assert all(0 < value < 1 for value in row["by_level"].values())
    assert row["in_both"] <= row["alone"]
    other = row | {"by_level": row["by_level"] | {"p3": 9.0}}
    line = script.columns("ENL", [row, other])
    assert line["P3, largest"] == 9.0
    assert line["P4, median"] == row["by_level"]["p4"]
    assert line["found alone"] == 2 * row["alone"]
    [table] = script.tables({"photographs": [row, other]})
    assert "ENL" in table


def test_objects_are_the_same_if_they_overlap_by_half(script):
    left, right = [0.0, 0.0, 10.0, 10.0], [50.0, 0.0, 60.0, 10.0]
    shifted, far = [0.0, 0.0, 10.0, 12.0], [50.0, 8.0, 60.0, 18.0]
    counts = script.common(
        instances([left, right], [0.9, 0.5]), instances([shifted, far], [0.7, 0.7])
    )
    assert counts == {"alone": 2, "beside": 2, "in_both": 1}
    counts = script.common(instances([left, right], [0.9, 0.4]), instances([left], [0.4]))
    assert counts == {"alone": 1, "beside": 0, "in_both": 0}
