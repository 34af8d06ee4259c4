import pytest
import torch


@pytest.fixture
def script(monkeypatch):
    import padding

    monkeypatch.setattr(padding, "CHANNELS", 8)
    monkeypatch.setattr(padding, "MAP_SIZE", (4, 6))
    monkeypatch.setattr(padding, "INSIDE", (4, 5))
    monkeypatch.setattr(padding, "SECONDS", 0)
    return padding


def test_every_measurement_gives_a_line(script, slim_cfg):
    papers = slim_cfg.clone()
    papers.MODEL.ENL_FPN.ATTEND_TO_PADDING = True
    slim_cfg.MODEL.ENL_FPN.BLOCK = ""
    configs = {"plain FPN": slim_cfg, "ENL, padding attended to": papers}
    results = {
        "differences": script.differences((60, 50), (96, 100), configs),
        "cost": [script.cost(2, training=False), script.cost(1, training=True)],
    }
    plain, enl = results["differences"]
    assert plain["to_plain"] == 1 and plain["largest"] == max(plain["by_level"].values())
    assert enl["to_plain"] == pytest.approx(enl["largest"] / plain["largest"])
    differences, cost = script.tables(results)
    assert "60×50" in differences and "padding attended to" in differences
    assert "4×5 padded to 4×6" in cost and "forward and backward" in cost


def test_an_image_of_the_batch_s_size_differs_in_nothing(script, slim_cfg):
    backbone = script.build(slim_cfg)
    difference = script.difference(backbone, (64, 96), (64, 96))
    assert set(difference) == {"p3", "p4", "p5"}
    assert max(difference.values()) < 1e-4


def test_the_interval_holds_the_median_and_narrows_with_more_values(script):
    assert script.median_interval([3.0]) == (3.0, 3.0)
    assert script.median_interval([5.0, 1.0, 2.0, 4.0, 3.0]) == (1.0, 5.0)
    assert script.median_interval([float(value) for value in range(101)]) == (40.0, 60.0)


def test_the_cost_is_that_of_the_extent(script, monkeypatch):
    seen = []

    class Block(torch.nn.Module):
        def __init__(self, channels):
            super().__init__()

        def forward(self, x, extent=None):
            seen.append(extent)
            return x

    monkeypatch.setattr(script, "ENLBlock", Block)
    script.cost(2, training=False)
    told = [extent.tolist() for extent in seen if extent is not None]
    assert len(seen) == 3 * len(told)
    assert all(extent == [[4, 5], [4, 5]] for extent in told)
