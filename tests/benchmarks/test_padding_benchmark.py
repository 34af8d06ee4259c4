import pytest
import torch
from detectron2.structures import Boxes, Instances

SMALL = ("fluorescence_small", "smear_bright_field", "tissue_pink")  # the least work
COUNTS = ("alone", "beside", "in_both")


@pytest.fixture
def script():
    import padding

    return padding


def instances(boxes, scores):
    found = Instances((100, 100))
    found.pred_boxes, found.scores = Boxes(torch.tensor(boxes)), torch.tensor(scores)
    return found


@pytest.mark.slow
def test_trained_enl_differs_with_its_batch_no_more_than_the_plain_pyramid(script):
    photographs = [script.PHOTOGRAPHS / f"{name}.jpg" for name in SMALL]
    rows = {system: script.rows(system, photographs) for system in ("plain FPN", "ENL")}
    largest = {
        system: max(value for row in own for value in row["by_level"].values())
        for system, own in rows.items()
    }
    # Its convolutions look over the image's edge.
    assert 0 < largest["ENL"] <= 1.1 * largest["plain FPN"] < 1.1
    for own in rows.values():
        alone, beside, in_both = (sum(row[name] for row in own) for name in COUNTS)
        assert 0.95 * alone < in_both <= alone
        assert beside < 1.05 * alone  # where ENL attends to the padding, it finds a tenth more
    [table] = script.tables({"photographs": rows["plain FPN"] + rows["ENL"]})
    assert "plain FPN" in table and "| ENL |" in table.replace("  ", "")


def test_objects_are_the_same_if_they_overlap_by_half(script):
    left, right = [0.0, 0.0, 10.0, 10.0], [50.0, 0.0, 60.0, 10.0]
    shifted, far = [0.0, 0.0, 10.0, 12.0], [50.0, 8.0, 60.0, 18.0]
    counts = script.common(
        instances([left, right], [0.9, 0.5]), instances([shifted, far], [0.7, 0.7])
    )
    assert counts == {"alone": 2, "beside": 2, "in_both": 1}
    counts = script.common(instances([left, right], [0.9, 0.4]), instances([left], [0.4]))
    assert counts == {"alone": 1, "beside": 0, "in_both": 0}
