"""An image's features alone and batched with a larger one: how the backbones treat the padding."""

import math
import threading

import detectron2.export  # noqa: F401  makes ResNet and FPN fit for TorchScript
import pytest
import torch
import torch.nn.functional as F
from detectron2.layers import ShapeSpec
from detectron2.modeling import ResNet, build_backbone
from detectron2.modeling.backbone import Backbone, BasicStem
from detectron2.modeling.backbone.resnet import BasicBlock
from detectron2.structures import ImageList
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from enl_detectron2.layers import image_extent, map_extent
from enl_detectron2.modeling import ENL_FPN, RELATION_BLOCK_REGISTRY, NonLocalResNet

BLOCKS = {"ENLBlock": {}, "NonLocalBlock": {"position": "cos_add"}}
LEVELS = (3, 4, 5)


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
@pytest.mark.parametrize("sizes", [[(64, 96), (40, 33)], [(1, 1), (64, 70)], [(5, 96), (64, 5)]])
def test_the_extent_is_where_the_images_end(sizes):
    images = batch(*(noise(height, width) for height, width in sizes))
    assert image_extent(images).tolist() == [list(size) for size in sizes]


@pytest.mark.numerical
def test_the_extent_of_far_smaller_images_is_found_too():
    images = batch(noise(256, 512), noise(7, 300), torch.zeros(3, 256, 512))
    assert image_extent(images).tolist() == [[256, 512], [7, 300], [256, 512]]


@pytest.mark.numerical
def test_one_channel_or_a_value_that_is_no_number_is_enough_to_belong_to_an_image():
    images = torch.zeros(2, 3, 64, 64)
    images[0, 1, 20, 40] = -1.0
    images[1, 2, 50, 10] = math.nan
    assert image_extent(images).tolist() == [[21, 41], [51, 11]]


def test_a_cell_that_is_partly_padding_counts():
    assert map_extent(torch.tensor([[64, 65], [1, 96]]), 32).tolist() == [[2, 3], [1, 3]]


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
    slim_cfg.MODEL.BACKBONE.NAME = "build_non_local_resnet_backbone"
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
    # A stage of ResNet-18 has two blocks: the non-local one stands right behind the first.
    stages = ResNet.make_default_stages(18, norm="BN")
    resnet = NonLocalResNet(BasicStem(norm="BN"), stages, stage=stage)
    assert resnet.non_local_stride == stride


def test_in_a_stage_of_one_block_it_stands_before_the_stride():
    stages = [
        ResNet.make_stage(
            BasicBlock, 1, stride_per_block=[s], in_channels=8, out_channels=8, norm="BN"
        )
        for s in (1, 2, 2)
    ]
    resnet = NonLocalResNet(BasicStem(out_channels=8, norm="BN"), stages, stage="res4")
    assert resnet.non_local_stride == 8  # res3's, as res4 begins with what halves its size


def test_a_projects_own_block_may_take_the_extent_or_not(monkeypatch):
    seen = []

    class WithExtent(nn.Module):
        def __init__(self, channels):
            super().__init__()

        def forward(self, x, extent=None):
            seen.append(extent)
            return x

    class WithoutExtent(WithExtent):
        def forward(self, x):
            seen.append("nothing")
            return x

    for block in (WithExtent, WithoutExtent):
        monkeypatch.setitem(RELATION_BLOCK_REGISTRY._obj_map, block.__name__, block)
        fpn = ENL_FPN(
            Averages(), ["res4", "res5"], 8, block=block.__name__, block_features=["res4"]
        )
        fpn(batch(noise(100, 70)))
    assert seen[0].tolist() == [[7, 5]] and seen[1] == "nothing"


def graphs():
    return {
        "trace": lambda backbone, x: torch.jit.trace(backbone, x, strict=False, check_trace=False),
        "script": lambda backbone, x: torch.jit.script(backbone),
        "compile": lambda backbone, x: torch.compile(backbone, fullgraph=True, backend="aot_eager"),
    }


@pytest.mark.parametrize("graph", graphs())
def test_graphs_leave_out_the_padding_of_images_they_have_not_seen(slim_cfg, graph):
    bottom_up = "build_non_local_resnet_backbone"
    backbone = build(slim_cfg, BOTTOM_UP=bottom_up).requires_grad_(False)
    of_graph = graphs()[graph](backbone, batch(noise(90, 128), noise(96, 70)))
    images = batch(noise(33, 150), noise(120, 100), noise(128, 160))
    for name, expected in backbone(images).items():
        error = (of_graph(images)[name] - expected).norm() / expected.norm()
        assert error < 1e-4, name


@pytest.mark.skipif(torch.__version__ < (2, 14), reason="2.5 asks for the driver of a GPU")
@pytest.mark.parametrize("dtype", [None, torch.float16, torch.bfloat16])
def test_nothing_waits_for_a_gpu_and_all_stays_on_it(slim_cfg, dtype):
    """On a simulated GPU: whatever asked a tensor for its value, or mixed devices, would raise."""
    slim_cfg.MODEL.ENL_FPN.BOTTOM_UP = "build_non_local_resnet_backbone"
    for position in ("cos_add", "l1_add", "none"):
        slim_cfg.MODEL.ENL_FPN.BLOCK_OPTIONS.position = position
        slim_cfg.MODEL.NON_LOCAL_RESNET.BLOCK_OPTIONS.position = position
        with torch.autocast("cpu", dtype=dtype, enabled=dtype is not None):
            on_cpu = build_backbone(slim_cfg)(batch(noise(100, 70), noise(128, 200)))
        with FakeTensorMode(), torch.device("cuda"):
            backbone = build_backbone(slim_cfg)
            images = torch.empty(2, 3, 128, 224)
            # torch.autocast("cuda") switches itself off where there is no GPU.
            torch.set_autocast_enabled("cuda", dtype is not None)
            torch.set_autocast_dtype("cuda", dtype or torch.float16)
            try:
                on_gpu = backbone(images)
            finally:
                torch.set_autocast_enabled("cuda", False)
        assert on_gpu.keys() == on_cpu.keys()
        for name, features in on_gpu.items():
            assert features.device.type == "cuda"
            assert (features.dtype, features.shape) == (on_cpu[name].dtype, on_cpu[name].shape)


@pytest.mark.numerical
@torch.no_grad()
def test_a_batch_of_no_images_gives_empty_maps(slim_cfg):
    backbone = build(slim_cfg, BOTTOM_UP="build_non_local_resnet_backbone")
    plain = build(slim_cfg, BLOCK="")
    for name, features in backbone(torch.zeros(0, 3, 64, 96)).items():
        assert (
            features.shape
            == plain(torch.zeros(0, 3, 64, 96))[name].shape
            == (0, *features.shape[1:])
        )


@torch.no_grad()
def test_the_backbone_runs_on_meta_tensors(slim_cfg):
    backbone = build(slim_cfg, BOTTOM_UP="build_non_local_resnet_backbone")
    images = batch(noise(100, 70), noise(128, 200))
    expected = backbone(images)
    for name, features in backbone.to("meta")(images.to("meta")).items():
        assert features.is_meta and features.shape == expected[name].shape


def test_threads_share_the_backbone(slim_cfg):
    backbone = build(slim_cfg, BOTTOM_UP="build_non_local_resnet_backbone")
    sizes = [(64, 96), (100, 70), (33, 150), (128, 128), (97, 65)]
    batches = [batch(noise(*size), noise(64, 64, seed=1)) for size in sizes]
    with torch.no_grad():
        expected = [backbone(images) for images in batches]
    results = {}

    @torch.no_grad()
    def work(thread):
        order = [(thread + index) % len(batches) for index in range(2 * len(batches))]
        results[thread] = [(index, backbone(batches[index])) for index in order]

    threads = [threading.Thread(target=work, args=(thread,)) for thread in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 4
    for outputs in results.values():
        for index, features in outputs:
            for name, value in expected[index].items():
                assert torch.equal(features[name], value)
