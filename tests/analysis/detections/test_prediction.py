import cv2
import numpy as np
import pytest
import torch
from detectron2.engine import DefaultPredictor
from detectron2.structures import Boxes, Instances

from enl_detectron2.analysis.cost.multiply_adds import count_multiply_adds
from enl_detectron2.analysis.cost.random_model import build_random_model
from enl_detectron2.analysis.detections.drawn import draw_instances
from enl_detectron2.analysis.detections.prediction import instances_above, predict
from enl_detectron2.analysis.detector import Detector, load_detector
from enl_detectron2.export import write_onnx
from enl_detectron2.training.config import load_config


@pytest.mark.parametrize("colours", ["BGR", "RGB"])
def test_predicts_as_detectron2_does(slim_model, colours):
    config, weights = map(str, slim_model)
    opts = ["MODEL.WEIGHTS", weights, "INPUT.FORMAT", colours, "INPUT.MIN_SIZE_TEST", "96"]
    cfg = load_config(config, opts)
    image = np.random.default_rng(0).integers(0, 256, (64, 80, 3), dtype=np.uint8)
    expected = DefaultPredictor(cfg)(image)["instances"]
    assert len(expected) > 10
    found = predict(load_detector(cfg), image, score_threshold=0.0)
    torch.testing.assert_close(found.pred_boxes.tensor, expected.pred_boxes.tensor)
    torch.testing.assert_close(found.scores, expected.scores)
    assert torch.equal(found.pred_classes, expected.pred_classes)
    threshold = float(expected.scores.median())
    found = predict(load_detector(cfg), image, score_threshold=threshold)
    assert 0 < len(found) < len(expected) and found.scores.min() >= threshold

    cfg = load_config(config, opts[:-2], tile=64)
    assert cfg.TEST.TILE == 64
    found = predict(load_detector(cfg), np.tile(image, (1, 2, 1)), score_threshold=0.0)
    assert found.image_size == (64, 160) and found.pred_boxes.tensor[:, 2].max() > 128


def test_predicts_on_grey_images_as_on_the_file(slim_cfg, tmp_path):
    slim_cfg.INPUT.FORMAT, slim_cfg.INPUT.MIN_SIZE_TEST = "L", 96
    slim_cfg.MODEL.PIXEL_MEAN, slim_cfg.MODEL.PIXEL_STD = [110.0], [1.0]
    slim_cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.0
    slim_cfg.MODEL.WEIGHTS = str(tmp_path / "grey.pth")
    weights = build_random_model(slim_cfg, "cpu").state_dict()
    torch.save({"model": weights}, slim_cfg.MODEL.WEIGHTS)
    detector = load_detector(slim_cfg)
    image = np.random.default_rng(0).integers(0, 256, (64, 80, 3), dtype=np.uint8)
    cv2.imwrite(str(tmp_path / "image.png"), image)
    with torch.no_grad():
        [expected] = detector.model([detector.read(str(tmp_path / "image.png"))])
    found = predict(detector, image, score_threshold=0.0)
    assert len(found) > 10
    torch.testing.assert_close(found.pred_boxes.tensor, expected["instances"].pred_boxes.tensor)
    # Measured and counted with an image of as many colours.
    assert count_multiply_adds(detector.model, (64, 80))
    write_onnx(detector.model.backbone, tmp_path / "grey.onnx", (64, 96), channels=1)


def test_a_model_without_detections_is_named():
    with pytest.raises(ValueError, match="gives sem_seg, but no instances"):
        instances_above(0.5, {"sem_seg": torch.zeros(1)})


def test_a_drawing_shows_each_class_in_its_colour():
    detector, image = Detector(None, None, []), np.zeros((60, 80, 3), dtype=np.uint8)
    boxes = Boxes(torch.tensor([[10.0, 10, 30, 30], [50, 10, 70, 30]]))
    instances = Instances((60, 80), pred_boxes=boxes, scores=torch.tensor([0.9, 0.8]))
    instances.pred_classes = torch.tensor([0, 1])
    drawing = draw_instances(image, instances, detector)
    assert drawing.shape == (502, 640, 3)
    blue, _, red = (drawing[60:240:, :, channel].astype(int) for channel in range(3))
    left, right = slice(0, 320), slice(320, 640)
    # Orange on the left, bluish green on the right.
    assert ((red - blue)[:, left] > 50).sum() > 500 and ((red - blue)[:, right] > 50).sum() == 0
    assert ((blue - red)[:, right] > 30).sum() > 500 and ((blue - red)[:, left] > 30).sum() == 0
    assert (drawing == [0x00, 0x9F, 0xE6]).all(axis=2).sum() > 200  # opaque: the very orange
    empty = draw_instances(image, instances[:0], detector)
    assert empty.shape == drawing.shape and not empty[:480].any()
    instances.pred_masks = torch.zeros(2, 60, 80, dtype=torch.bool)
    instances.pred_masks[0, 12:28, 12:28] = True
    masked = draw_instances(image, instances, detector, "none")
    assert masked[96:104].any() and not masked[110:150, 110:150].any()  # an outline


def test_labels_hide_nothing_and_dark_photographs_are_stretched():
    boxes = [[300, 100, 340, 140], [342, 100, 382, 140], [302, 60, 380, 98], [302, 142, 380, 190]]
    boxes = Boxes(torch.tensor([*boxes, [100, 300, 200, 400]]).float())
    instances = Instances((640, 640), pred_boxes=boxes, scores=torch.full((5,), 0.9))
    instances.pred_classes = torch.zeros(5, dtype=torch.int64)
    detector = Detector(None, None, ["a nucleus of a long name"])
    image = np.full((640, 640, 3), 9, dtype=np.uint8)
    plain, auto, every = (
        draw_instances(image, instances, detector, labels) for labels in ("none", "auto", "all")
    )
    assert (plain != auto).any() and (auto != every).any()
    assert (plain[101:139, 301:339] == auto[101:139, 301:339]).all()
    image[:20] = 30
    assert draw_instances(image, instances, detector, "none")[:19].min() > 200
