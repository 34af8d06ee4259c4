"""An image's features alone and batched with a larger one: how the backbones treat the padding."""

import math

import detectron2.export  # noqa: F401  makes ResNet and FPN fit for TorchScript
import pytest
import torch
import torch.nn.functional as F
from detectron2.layers import ShapeSpec
from detectron2.modeling import ResNet, build_backbone
from detectron2.modeling.backbone import Backbone, BasicStem
from detectron2.structures import ImageList
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from enl_detectron2.modeling import ENL_FPN, NonLocalResNet

BLOCKS = {"ENLBlock": {}, "NonLocalBlock": {"position": "cos_add"}}
LEVELS = (3, 4, 5)
NL_RESNET = "build_non_local_resnet_backbone"


def generator(seed=0):
    return torch.Generator(torch.get_default_device()).manual_seed(seed)


def noise(height, width, seed=0, **options):
    return torch.randn(3, height, width, generator=generator(seed), **options)


def batch(*images):
    return ImageList.from_tensors(list(images), size_divisibility=32).tensor


def randomized(module):
    """Weights with which each block adds about as much as its input, if that is of unit size."""
    numbers = generator()
    for parameter in module.parameters():
        fan_in = parameter[0].numel() if parameter.dim() > 1 else parameter.numel()
        nn.init.normal_(parameter, std=fan_in**-0.5, generator=numbers)


class Averages(Backbone):
    """A bottom-up network in which no cell sees more than its own pixels."""

    def output_shape(self):
        return {f"res{k}": ShapeSpec(channels=3, stride=2**k) for k in range(2, 6)}

    def forward(self, x):
        return {f"res{k}": F.avg_pool2d(x, 2**k) for k in range(2, 6)}


def inside(features, level, image):
    height, width = (math.ceil(length / 2**level) for length in image.shape[1:])
    return features[f"p{level}"][0, :, :height, :width]


@pytest.mark.numerical
@pytest.mark.parametrize("block", BLOCKS)
@torch.no_grad()
def test_what_blocks_add_does_not_depend_on_the_batch(block):
    """All else is equal here: no cell below the pyramid depends on the padding."""
    torch.manual_seed(0)
    keys = {"block": block, "block_options": BLOCKS[block]}
    fpn = ENL_FPN(Averages(), ["res2", "res3", "res4", "res5"], 8, **keys)
    for relation_block in fpn.relations.values():
        randomized(relation_block)
    papers = ENL_FPN(
        Averages(), ["res2", "res3", "res4", "res5"], 8, **keys, attend_to_padding=True
    )
    papers.load_state_dict(fpn.state_dict())
    image, others = noise(100, 70, dtype=torch.float64), noise(128, 200, 1, dtype=torch.float64)
    for backbone, expected_same in ((fpn.double(), True), (papers.double(), False)):
        alone, batched = backbone(batch(image)), backbone(batch(image, others, others[:, :9]))
        for level in LEVELS:
            a, b = inside(alone, level, image), inside(batched, level, image)
            assert torch.allclose(a, b, rtol=1e-10, atol=1e-12) == expected_same


def build(cfg, **keys):
    """A backbone with random weights in its blocks and batch norms calibrated on noise."""
    cfg = cfg.clone()
    cfg.MODEL.ENL_FPN.merge_from_list([item for pair in keys.items() for item in pair])
    torch.manual_seed(0)
    backbone = build_backbone(cfg)
    for level in LEVELS:
        randomized(backbone.relations[f"p{level}"])
    backbone.train()
    with torch.no_grad():
        for _ in range(10):
            backbone(torch.randn(4, 3, 128, 160))
    return backbone.eval()


def test_the_papers_behaviour_is_one_key_away(slim_cfg):
    image, other = noise(100, 100), noise(128, 192, seed=1)
    ours, papers = build(slim_cfg), build(slim_cfg, ATTEND_TO_PADDING=True)
    papers.load_state_dict(ours.state_dict())
    with torch.no_grad():
        whole = batch(noise(128, 192))
        for name, expected in papers(whole).items():  # without padding they are one
            assert torch.allclose(ours(whole)[name], expected, rtol=1e-5, atol=1e-6)
        assert not torch.equal(ours(batch(image, other))["p5"], papers(batch(image, other))["p5"])


@pytest.mark.numerical
@pytest.mark.parametrize("attend_to_padding", [False, True])
@torch.no_grad()
def test_the_block_in_a_resnet_gets_the_extent(slim_cfg, attend_to_padding):
    slim_cfg.MODEL.BACKBONE.NAME = NL_RESNET
    slim_cfg.MODEL.NON_LOCAL_RESNET.ATTEND_TO_PADDING = attend_to_padding
    resnet = build_backbone(slim_cfg).eval()
    seen = []
    resnet.res4.non_local.register_forward_hook(lambda module, args, output: seen.append(args))
    resnet(batch(noise(100, 70), noise(128, 200)))
    ((x, *extent),) = seen
    assert x.shape[2:] == (8, 14)
    extent = [None if e is None else e.tolist() for e in extent]
    assert extent == [None if attend_to_padding else [[7, 5], [8, 13]]]


@pytest.mark.parametrize("stage, stride", [("res2", 4), ("res3", 8), ("res5", 32)])
def test_the_extent_is_that_of_the_blocks_own_map(stage, stride):
    stages = ResNet.make_default_stages(18, norm="BN")  # the block stands right behind a first one
    assert NonLocalResNet(BasicStem(norm="BN"), stages, stage=stage).non_local_stride == stride
    # In a stage of one block it stands before what halves the size.
    resnet = NonLocalResNet(BasicStem(norm="BN"), [each[:1] for each in stages], stage=stage)
    assert resnet.non_local_stride == max(4, stride // 2)


@pytest.mark.parametrize("graph", ["trace", "script"])
def test_graphs_leave_out_the_padding_of_images_they_have_not_seen(slim_cfg, graph):
    backbone = build(slim_cfg, BOTTOM_UP=NL_RESNET).requires_grad_(False)
    if graph == "trace":
        example = batch(noise(90, 128), noise(96, 70))
        of_graph = torch.jit.trace(backbone, example, strict=False, check_trace=False)
    else:
        of_graph = torch.jit.script(backbone)
    images = batch(noise(33, 150), noise(120, 100), noise(128, 160))
    found = of_graph(images)
    for name, expected in backbone(images).items():
        assert (found[name] - expected).norm() < 1e-4 * expected.norm(), name


@pytest.mark.skipif(torch.__version__ < (2, 14), reason="2.5 asks for the driver of a GPU")
@pytest.mark.parametrize("dtype", [None, torch.float16])
@pytest.mark.parametrize("position", ["cos_add", "l1_add", "none"])
def test_nothing_waits_for_a_gpu_and_all_stays_on_it(slim_cfg, monkeypatch, position, dtype):
    """On a simulated GPU: whatever asked a tensor for its value, or mixed devices, would raise."""
    slim_cfg.MODEL.ENL_FPN.BOTTOM_UP = NL_RESNET
    slim_cfg.MODEL.ENL_FPN.BLOCK_OPTIONS.position = position
    slim_cfg.MODEL.NON_LOCAL_RESNET.BLOCK_OPTIONS.position = position
    with torch.autocast("cpu", dtype=dtype, enabled=dtype is not None):
        on_cpu = build_backbone(slim_cfg)(batch(noise(100, 70), noise(128, 200)))
    # torch.autocast switches itself off where there is no GPU.
    monkeypatch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
    with FakeTensorMode():
        with torch.device("cuda"):
            backbone, images = build_backbone(slim_cfg), torch.empty(2, 3, 128, 224)
        with torch.autocast("cuda", dtype=dtype, enabled=dtype is not None):
            on_gpu = backbone(images)
    assert on_gpu.keys() == on_cpu.keys()
    for name, features in on_gpu.items():
        assert features.device.type == "cuda"
        assert (features.dtype, features.shape) == (on_cpu[name].dtype, on_cpu[name].shape)
