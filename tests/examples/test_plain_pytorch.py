"""examples/plain_pytorch: the block in networks without detectron2."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torchvision.models.detection import fasterrcnn_resnet50_fpn

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples/plain_pytorch"
# Few and small, so that the test takes seconds.
OPTIONS = {
    **{"weights": None, "weights_backbone": None, "num_classes": 3},
    **{"min_size": 96, "max_size": 160, "box_detections_per_img": 5},
    **{"rpn_pre_nms_top_n_train": 50, "rpn_post_nms_top_n_train": 20},
    **{"rpn_pre_nms_top_n_test": 50, "rpn_post_nms_top_n_test": 20},
}


@pytest.fixture
def examples(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    import torchvision_detector
    import unet

    return torchvision_detector, unet


def images():
    generator = torch.Generator().manual_seed(0)
    return [torch.rand(3, *size, generator=generator) for size in [(96, 128), (96, 100)]]


def targets():
    return [
        {"boxes": torch.tensor([[10.0, 12.0, 50.0, 70.0]]), "labels": torch.tensor([1])}
        for _ in images()
    ]


@torch.no_grad()
def test_torchvisions_detector_starts_as_the_plain_one(examples):
    torch.manual_seed(0)
    plain = fasterrcnn_resnet50_fpn(**OPTIONS).eval()
    torch.manual_seed(0)
    model = examples[0].build_detector(**OPTIONS).eval()
    pixels = model.transform(images())[0].tensors
    features, expected = model.backbone(pixels), plain.backbone(pixels)
    assert list(features) == list(expected)  # with the pooled level
    for name, feature in expected.items():
        torch.testing.assert_close(features[name], feature)


def test_torchvisions_detector_trains_all_blocks(examples):
    model = examples[0].build_detector(**OPTIONS).train()
    for block in model.backbone.fpn.relations:
        torch.nn.init.normal_(block.out.weight, std=0.1)  # behind zeros nothing else has a gradient
    sum(model(images(), targets()).values()).backward()
    gradients = {n: p.grad for n, p in model.backbone.fpn.relations.named_parameters()}
    assert len(gradients) == 24  # three blocks of four projections
    # φ's softmax doesn't change with its bias.
    silent = [name for name, g in gradients.items() if not g.any() and "phi.bias" not in name]
    assert not silent


@torch.no_grad()
def test_torchvisions_blocks_leave_the_padding_out(examples):
    """The wider image's columns beyond the narrower one's end don't matter to it."""
    pyramid = examples[0].ENLPyramid([8, 8], 16).eval()
    maps = {"0": torch.randn(1, 8, 16, 20), "1": torch.randn(1, 8, 8, 10)}
    changed = {name: map_.clone() for name, map_ in maps.items()}
    for width, map_ in zip((14, 7), changed.values()):
        map_[..., width:] += 5.0
    extents = [torch.tensor([[16, 14]]), torch.tensor([[8, 7]])]
    for relation in pyramid.relations:
        torch.nn.init.normal_(relation.out.weight, std=1.0)
    for block in pyramid.layer_blocks:
        torch.nn.init.dirac_(block[0].weight)  # a 3×3 convolution would see its neighbours
    before, after = pyramid(maps, extents), pyramid(changed, extents)
    for name, width in zip(("0", "1"), (14, 7)):
        torch.testing.assert_close(before[name][..., :width], after[name][..., :width])
        assert not torch.equal(before[name], after[name])


@pytest.mark.parametrize("size", [(64, 96), (51, 70)])
def test_a_u_net_relates_the_corners_of_its_image(examples, size):
    torch.manual_seed(0)
    model = examples[1].ENLUNet(2, widths=(8, 16, 32)).double()
    with torch.no_grad():
        for block in model.relations:
            for parameter in block.parameters():
                parameter.normal_(std=0.2)
    image = torch.randn(1, 3, *size, dtype=torch.double, requires_grad=True)
    logits = model(image)
    assert logits.shape == (1, 2, *size)
    logits[0, 0, 0, 0].backward()
    assert image.grad[0, :, -1, -1].any()
    for block in model.relations:
        block.zero_init()
    image.grad = None
    model(image)[0, 0, 0, 0].backward()
    assert not image.grad[0, :, -1, -1].any()  # convolutions alone don't reach that far


def test_they_need_no_detectron2():
    script = f"""
import sys
sys.modules["detectron2"] = None  # importing it fails
sys.path[:0] = [{str(EXAMPLES)!r}, {str(ROOT)!r}]
import torchvision_detector, unet
"""
    subprocess.run([sys.executable, "-c", script], check=True)
