"""Whole detectors on a GPU, and that it gives what the CPU does. Run by ``make test-gpu``."""

import copy

import equations
import pytest
import torch
from detectron2.modeling import build_backbone, build_model
from detectron2.utils.events import EventStorage
from tiny_training import photographs

from enl_detectron2.layers import ENLBlock, NonLocalBlock
from enl_detectron2.modeling import relation_blocks

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.usefixtures("without_tf32"),
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
]

BLOCKS = [(kind, options) for kind, _, options in equations.BLOCKS]
EXTENT = torch.tensor([[25, 34], [20, 34], [25, 7]])
TYPES = [None, torch.float16, torch.bfloat16]


def forward_and_backward(block, x, extent):
    """The output, and the gradients of the input and of all parameters."""
    x = x.detach().requires_grad_()
    output = block(x, extent)
    (output * torch.linspace(-1, 1, output.shape[3], device=x.device)).sum().backward()
    return [output.detach(), x.grad, *(each.grad for each in block.parameters())]


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("kind, options", BLOCKS, ids=str)
@pytest.mark.parametrize("extent", [None, EXTENT], ids=["whole", "padded"])
def test_a_block_gives_what_it_gives_on_the_cpu(kind, options, extent, layout):
    torch.manual_seed(0)
    block = kind(32, **options)
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter, std=32**-0.5)
    x = torch.randn(3, 32, 25, 34).to(memory_format=layout)
    expected = forward_and_backward(block, x, extent)
    on_gpu = copy.deepcopy(block).cuda()
    on_gpu.zero_grad(set_to_none=True)
    actual = forward_and_backward(on_gpu, x.cuda(), None if extent is None else extent.cuda())
    assert actual[0].stride() == x.stride()
    # A gradient may be zero but for rounding, as that of phi's bias under a softmax.
    least = 0.01 * max(each.norm() for each in expected)
    for one, other in zip(actual, expected, strict=True):
        assert (one.cpu() - other).norm() < 1e-4 * other.norm().clamp(min=least)


@torch.no_grad()
@pytest.mark.parametrize("kind", [ENLBlock, NonLocalBlock])
def test_a_cuda_graph_of_a_block_takes_other_maps_and_extents(kind):
    block = kind(32).cuda().eval()
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter, std=32**-0.5)
    x, extent = torch.randn(3, 32, 25, 34, device="cuda"), EXTENT.cuda()
    beside = torch.cuda.Stream()
    with torch.cuda.stream(beside):  # PyTorch wants a first call on another stream
        block(x, extent)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = block(x, extent)
    x.normal_()
    extent.copy_(EXTENT.flip(0))
    graph.replay()
    torch.testing.assert_close(captured, block(x, extent), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("position", ["cos_add", "l1_add", "none"])
def test_the_backbone_never_makes_the_gpu_wait(slim_cfg, dtype, position):
    """Forward and backward, of a padded batch: PyTorch raises at whatever waits for a result."""
    slim_cfg.MODEL.ENL_FPN.BOTTOM_UP = "build_non_local_resnet_backbone"
    slim_cfg.MODEL.ENL_FPN.BLOCK_OPTIONS.position = position
    slim_cfg.MODEL.NON_LOCAL_RESNET.BLOCK_OPTIONS.position = position
    backbone = build_backbone(slim_cfg).cuda()
    images = torch.randn(2, 3, 128, 224, device="cuda")
    images[1, :, 100:] = 0
    images[1, :, :, 70:] = 0
    for step in range(2):
        # The first step compiles and chooses kernels, and may wait.
        torch.cuda.set_sync_debug_mode("error" if step else "default")
        try:
            with torch.autocast("cuda", dtype=dtype or torch.float16, enabled=dtype is not None):
                features = backbone(images)
            sum(level.float().mean() for level in features.values()).backward()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    for level in features.values():
        assert level.is_cuda and torch.isfinite(level).all()


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("block", ["ENLBlock", "NonLocalBlock", "Conv5x5Block"])
def test_a_detector_trains_and_detects(slim_cfg, block, dtype):
    slim_cfg.MODEL.DEVICE = "cuda"
    slim_cfg.MODEL.ENL_FPN.BLOCK = block
    torch.manual_seed(0)
    model = build_model(slim_cfg)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    # From the default scale on, all of these steps would be left out, as something overflows.
    scaler = torch.amp.GradScaler("cuda", init_scale=2048.0, enabled=dtype == torch.float16)
    enabled = {"dtype": dtype or torch.float16, "enabled": dtype is not None}
    for _ in range(3):
        with EventStorage(), torch.autocast("cuda", **enabled):
            losses = model(photographs())
        assert all(torch.isfinite(loss) for loss in losses.values())
        optimizer.zero_grad()
        scaler.scale(sum(losses.values())).backward()
        scaler.step(optimizer)
        scaler.update()
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())
    gradients = [p.grad for p in relation_blocks(model)["backbone.relations.p3"].parameters()]
    assert all(torch.isfinite(gradient).all() for gradient in gradients)
    assert any(gradient.any() for gradient in gradients)
    model.eval()
    with torch.no_grad(), torch.autocast("cuda", **enabled):
        for output in model(photographs()):
            assert output["instances"].pred_boxes.device.type == "cuda"
