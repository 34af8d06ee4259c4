import cv2
import numpy as np
import pytest
import torch
from detectron2.engine import DefaultPredictor
from detectron2.structures import Boxes, Instances

from enl_detectron2.analysis.cost.multiply_adds import count_multiply_adds
from enl_detectron2.analysis.cost.random_model import build_random_model
from enl_detectron2.analysis.detections import prediction
from enl_detectron2.analysis.detections.drawn import draw_instances
from enl_detectron2.analysis.detections.prediction import (
    instances_above,
    predict,
    predict_tiled,
)
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


class Oracle:
    """Finds every bright rectangle, as far as it can see it; its class is its brightness."""

    @staticmethod
    def predict(_, image, *, score_threshold):
        seen = image[:, :, 0]
        _, _, statistics, _ = cv2.connectedComponentsWithStats((seen > 0).astype(np.uint8))
        boxes = [[x, y, x + w, y + h] for x, y, w, h, _ in statistics[1:].tolist()]
        classes = [int(seen[y0:y1, x0:x1].max()) // 100 for x0, y0, x1, y1 in boxes]
        return Instances(
            image.shape[:2],
            pred_boxes=Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)),
            scores=torch.full((len(boxes),), 0.9),
            pred_classes=torch.tensor(classes, dtype=torch.int64),
        )


@pytest.mark.parametrize("size", [(300, 410), (90, 333), (50, 60), (100, 100), (101, 175)])
def test_tiles_find_each_object_once_wherever_it_lies(monkeypatch, size):
    monkeypatch.setattr(prediction, "predict", Oracle.predict)
    rng = np.random.default_rng(0)
    image, expected = np.zeros((*size, 3), dtype=np.uint8), set()
    for y in range(0, size[0] - 24, 26):
        for x in range(0, size[1] - 24, 26):
            # Up to the overlap of tiles of 100 pixels, 25, anywhere.
            width, height = rng.integers(6, 25, 2)
            brightness = int(rng.choice([100, 200]))
            image[y : y + height, x : x + width] = brightness
            expected.add((x, y, x + width, y + height, brightness // 100))
    found = predict_tiled(None, image, 100, score_threshold=0.5)
    boxes = found.pred_boxes.tensor.int().tolist()
    got = [(*box, label) for box, label in zip(boxes, found.pred_classes.tolist())]
    assert len(expected) > 1
    assert sorted(got) == sorted(expected)
    assert found.image_size == size


def test_an_object_longer_than_the_overlap_stays_cut(monkeypatch):
    monkeypatch.setattr(prediction, "predict", Oracle.predict)
    image = np.zeros((100, 300, 3), dtype=np.uint8)
    image[40:60, 20:280] = 100
    found = predict_tiled(None, image, 100, score_threshold=0.5)
    boxes = found.pred_boxes.tensor
    assert len(boxes) > 1
    assert boxes[:, 0].min() == 20 and boxes[:, 2].max() == 280  # no part of it is lost


def test_a_drawing_shows_each_class_in_its_colour(slim_model):
    config, weights = map(str, slim_model)
    detector = load_detector(load_config(config, ["MODEL.WEIGHTS", weights]))
    boxes = torch.tensor([[10.0, 10, 30, 30], [50, 10, 70, 30]])
    instances = Instances(
        (60, 80),
        pred_boxes=Boxes(boxes),
        scores=torch.tensor([0.9, 0.8]),
        pred_classes=torch.tensor([0, 1]),
    )
    drawing = draw_instances(np.zeros((60, 80, 3), dtype=np.uint8), instances, detector)
    assert drawing.shape == (502, 640, 3)
    blue, _, red = (drawing[60:240:, :, channel].astype(int) for channel in range(3))
    left, right = slice(0, 320), slice(320, 640)
    # Orange on the left, bluish green on the right.
    assert ((red - blue)[:, left] > 50).sum() > 500 and ((red - blue)[:, right] > 50).sum() == 0
    assert ((blue - red)[:, right] > 30).sum() > 500 and ((blue - red)[:, left] > 30).sum() == 0
    empty = draw_instances(np.zeros((60, 80, 3), dtype=np.uint8), instances[:0], detector)
    assert empty.shape == drawing.shape and not empty[:480].any()
    assert (drawing == [0x00, 0x9F, 0xE6]).all(axis=2).sum() > 200  # opaque: the very orange

    masks = torch.zeros(2, 60, 80, dtype=torch.bool)
    masks[0, 12:28, 12:28] = True
    instances.pred_masks = masks
    masked = draw_instances(np.zeros((60, 80, 3), dtype=np.uint8), instances, detector, "none")
    assert masked[96:104].any() and not masked[110:150, 110:150].any()  # an outline


def test_labels_hide_nothing_and_dark_photographs_are_stretched():
    boxes = torch.tensor(
        [
            [300.0, 100, 340, 140],
            [342, 100, 382, 140],
            [302, 60, 380, 98],
            [302, 142, 380, 190],
            [100, 300, 200, 400],
        ]
    )
    instances = Instances((640, 640), pred_boxes=Boxes(boxes), scores=torch.full((5,), 0.9))
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
