"""examples/plain_pytorch: the block in networks without detectron2."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from nightly import a_few
from torchvision.models import detection

from enl_detectron2.layers import ENLBlock

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples/plain_pytorch"
# The strides of the levels that get a block.
DETECTORS = {
    "fasterrcnn_resnet50_fpn": [8, 16, 32],
    "fasterrcnn_mobilenet_v3_large_fpn": [32, 32],
    "retinanet_resnet50_fpn": [8, 16, 32],
    "fcos_resnet50_fpn": [8, 16, 32],
    "maskrcnn_resnet50_fpn": [8, 16, 32],
}


@pytest.fixture
def examples(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    import torchvision_detector
    import unet

    return torchvision_detector, unet


def images():
    generator = torch.Generator().manual_seed(0)
    return [torch.rand(3, *size, generator=generator) for size in [(96, 128), (70, 75)]]


def target(image):
    box = torch.tensor([[10.0, 12.0, 50.0, 60.0]])
    return {"boxes": box, "labels": torch.tensor([1]), "masks": image.new_ones(1, *image.shape[1:])}


@pytest.mark.parametrize("name", a_few(DETECTORS, 3))
def test_torchvisions_detectors(examples, name):
    """They start as the plain one, each block sees an image as if it came alone, and all learn."""
    torch.manual_seed(0)
    options = {"weights": None, "weights_backbone": None, "num_classes": 3}
    model = getattr(detection, name)(**options, min_size=70, max_size=160).eval()
    batch = model.transform(images())[0]
    with torch.no_grad():
        expected = model.backbone(batch.tensors)
        names = set(model.state_dict())
        model = examples[0].add_blocks(model)
        assert not model.backbone.body.training
        features = model.backbone(batch.tensors)
    assert names <= set(model.state_dict())  # so a plain detector's checkpoint loads
    assert list(features) == list(expected)
    for level, feature in expected.items():
        torch.testing.assert_close(features[level], feature)

    blocks = [block for block in model.backbone.relations if isinstance(block, ENLBlock)]
    seen = []
    for block in blocks:
        torch.nn.init.normal_(block.out.weight)  # behind zeros nothing else has a gradient
        block.register_forward_hook(lambda block, args, z: seen.append((block, args[0], z)))
    with torch.no_grad():
        model.backbone(batch.tensors)
        for (block, x, z), stride in zip(list(seen), reversed(DETECTORS[name]), strict=True):
            for index, size in enumerate(batch.image_sizes):
                height, width = (-(-length // stride) for length in size)
                alone = block(x[index : index + 1, :, :height, :width])[0]
                error = (z[index, :, :height, :width] - alone).abs().max()
                assert error < 1e-4 * alone.abs().max()

    losses = model.train()(images(), [target(image) for image in images()])
    sum(losses.values()).backward()
    # φ's softmax doesn't change with its bias.
    parameters = [p for block in blocks for n, p in block.named_parameters() if n != "phi.bias"]
    assert all(parameter.grad.any() for parameter in parameters)


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


@pytest.mark.slow
def test_they_need_no_detectron2():
    script = f"""
import sys
sys.modules["detectron2"] = None  # importing it fails
sys.path[:0] = [{str(EXAMPLES)!r}, {str(ROOT)!r}]
import torchvision_detector, unet
"""
    subprocess.run([sys.executable, "-c", script], check=True)
