import pytest


@pytest.fixture
def script():
    import padding

    return padding


def test_every_measurement_gives_a_line(script, slim_cfg):
    papers = slim_cfg.clone()
    papers.MODEL.ENL_FPN.ATTEND_TO_PADDING = True
    slim_cfg.MODEL.ENL_FPN.BLOCK = ""
    configs = {"plain FPN": slim_cfg, "ENL, padding attended to": papers}
    results = {"differences": script.differences((60, 50), (96, 100), configs)}
    plain, enl = results["differences"]
    assert plain["to_plain"] == 1 and plain["largest"] == max(plain["by_level"].values())
    assert enl["to_plain"] == pytest.approx(enl["largest"] / plain["largest"])
    (differences,) = script.tables(results)
    assert "60×50" in differences and "padding attended to" in differences


def test_an_image_of_the_batch_s_size_differs_in_nothing(script, slim_cfg):
    backbone = script.build(slim_cfg)
    difference = script.difference(backbone, (64, 96), (64, 96))
    assert set(difference) == {"p3", "p4", "p5"}
    assert max(difference.values()) < 1e-4
