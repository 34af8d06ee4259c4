from pathlib import Path

import pytest
import torch

CONFIGS = Path(__file__).parents[2] / "configs" / "cpu"
FILES = {
    "baseline": str(CONFIGS / "digits_rcnn.yaml"),
    "+3ENL TD": str(CONFIGS / "digits_enl_rcnn.yaml"),
}
SIZE = (96, 128)


@pytest.fixture
def script(monkeypatch):
    import detector

    monkeypatch.setattr(detector, "FILES", FILES)
    return detector


@pytest.mark.slow
def test_both_detectors_have_the_same_weights_and_the_same_work(script):
    models = script.same_models(FILES, script.OPTIONS)
    baseline, enl = (model.state_dict() for model in models.values())
    assert set(baseline) < set(enl)
    assert all(torch.equal(enl[name], weight) for name, weight in baseline.items())

    before = [weight.clone() for weight in models["+3ENL TD"].parameters()]
    trained = script.training(models, SIZE, seconds=0)
    assert len(set(trained["regions"].values())) == 1
    # The steps change next to nothing.
    torch.testing.assert_close(list(models["+3ENL TD"].parameters()), before)

    inferred = script.inference(models, SIZE, seconds=0)
    assert inferred["peak_bytes"]["+3ENL TD"] >= inferred["peak_bytes"]["baseline"]
