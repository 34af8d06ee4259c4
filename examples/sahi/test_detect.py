"""Sliced inference finds what detectron2 finds in each slice; `make optional` brings SAHI."""

import runpy
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from detectron2.engine import DefaultPredictor

from enl_detectron2.analysis.cost.random_model import build_random_model
from enl_detectron2.training.config import get_training_cfg

pytest.importorskip("sahi", reason="SAHI is not installed: see make optional")

ROOT = Path(__file__).parents[2]
SCRIPT = Path(__file__).with_name("detect.py")
SLICE = 96


@pytest.fixture
def training(tmp_path):
    """What a training leaves: configuration and weights; and an image of two slices."""
    cfg = get_training_cfg()
    cfg.merge_from_file(str(ROOT / "configs/cpu/digits_enl_rcnn.yaml"))
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.0
    model = build_random_model(cfg, "cpu")
    torch.manual_seed(0)
    torch.nn.init.normal_(model.roi_heads.box_predictor.cls_score.weight, std=0.3)
    torch.save({"model": model.state_dict()}, tmp_path / "model_final.pth")
    (tmp_path / "config.yaml").write_text(cfg.dump())
    cfg.MODEL.WEIGHTS = str(tmp_path / "model_final.pth")
    noise = np.random.default_rng(0).integers(256, size=(SLICE, 2 * SLICE, 3), dtype=np.uint8)
    cv2.imwrite(str(tmp_path / "image.png"), noise)
    return tmp_path, cfg


def test_what_is_found_is_what_detectron2_finds_in_each_slice(training):
    folder, cfg = training
    image = cv2.imread(str(folder / "image.png"))
    predict = DefaultPredictor(cfg)
    expected = []
    for left in (0, SLICE):
        instances = predict(image[:, left : left + SLICE])["instances"]
        best = int(instances.scores.argmax())
        shift = torch.tensor([left, 0, left, 0])
        expected.append((float(instances.scores[best]), instances.pred_boxes.tensor[best] + shift))

    detect = runpy.run_path(str(SCRIPT))["detect"]
    found = detect(
        str(folder),
        str(folder / "image.png"),
        slice_size=SLICE,
        overlap=0.0,
        threshold=0.0,
        device="cpu",
    ).object_prediction_list
    boxes = torch.tensor([prediction.bbox.to_xyxy() for prediction in found])
    scores = torch.tensor([prediction.score.value for prediction in found])
    score, box = max(expected, key=lambda pair: pair[0])
    assert scores.max().item() == pytest.approx(score, abs=1e-4)
    # Merging may have made it larger, by the boxes of its own class that overlap it.
    merged = boxes[scores.argmax()]
    assert (merged[:2] <= box[:2] + 1).all() and (merged[2:] >= box[2:] - 1).all()
    # Something is found in either slice.
    assert (boxes[:, 0] < SLICE).any() and (boxes[:, 2] > SLICE).any()


def test_the_command_draws_what_it_finds(training, monkeypatch, capsys):
    folder, _ = training
    arguments = ["detect.py", folder, folder / "image.png", folder / "out"]
    options = ["--slice", SLICE, "--threshold", 0.2]
    monkeypatch.setattr(sys, "argv", [str(word) for word in arguments + options])
    runpy.run_path(str(SCRIPT), run_name="__main__")
    assert "objects; see" in capsys.readouterr().out
    assert cv2.imread(str(folder / "out/prediction_visual.png")).shape == (SLICE, 2 * SLICE, 3)
