"""Whole detectors on a simulated GPU: nothing is left on the CPU or becomes another type."""

import copy
import itertools

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage
from nightly import a_few
from simulated_gpu import OnGPU, simulated_gpu
from tiny_training import photographs

from enl_detectron2.layers import ENLBlock
from enl_detectron2.modeling import relation_blocks

# The simulated GPU stands on inner parts of PyTorch; 2.5 crashes on it.
pytestmark = pytest.mark.skipif(torch.__version__ < (2, 14), reason="needs PyTorch 2.14")

BLOCKS = ["ENLBlock", "NonLocalBlock", "Conv5x5Block"]
ARCHITECTURES = ["Faster R-CNN", "Cascade Mask R-CNN", "RetinaNet"]
CASES = list(itertools.product(ARCHITECTURES, BLOCKS))
DTYPES = [torch.float16, torch.bfloat16]
AUTOCAST = [(*case, dtype) for case, dtype in itertools.product(CASES, DTYPES)]


def configured(cfg, architecture, block):
    cfg.MODEL.ENL_FPN.BLOCK = block
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = cfg.MODEL.RETINANET.NUM_CLASSES = 3
    cfg.MODEL.RPN.PRE_NMS_TOPK_TRAIN = cfg.MODEL.RPN.PRE_NMS_TOPK_TEST = 100
    cfg.MODEL.RPN.POST_NMS_TOPK_TRAIN = cfg.MODEL.RPN.POST_NMS_TOPK_TEST = 50
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = cfg.MODEL.RETINANET.SCORE_THRESH_TEST = 0.0
    cfg.TEST.DETECTIONS_PER_IMAGE = 5
    if architecture == "RetinaNet":
        cfg.MODEL.META_ARCHITECTURE = "RetinaNet"
        cfg.MODEL.ENL_FPN.TOP_BLOCK = "LastLevelP6P7"
        cfg.MODEL.FPN.IN_FEATURES = ["res3", "res4", "res5"]
    if architecture == "Cascade Mask R-CNN":
        cfg.MODEL.ROI_HEADS.NAME = "CascadeROIHeads"
        cfg.MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG = True
        cfg.MODEL.RPN.POST_NMS_TOPK_TRAIN = 50
        cfg.MODEL.MASK_ON = True
        cfg.INPUT.MASK_FORMAT = "bitmask"
        cfg.MODEL.ROI_MASK_HEAD.CONV_DIM = 16
    return cfg


def built(cfg, device):
    cfg.MODEL.DEVICE = device
    torch.manual_seed(0)
    model = build_model(cfg)
    for block in relation_blocks(model).values():
        for parameter in block.parameters():
            # With larger ones what a block adds, which grows with its input's cube, may overflow.
            torch.nn.init.normal_(parameter, std=0.03)
    if cfg.MODEL.META_ARCHITECTURE == "RetinaNet":
        # Whose first scores are equal but for rounding, on which their order would depend.
        torch.nn.init.normal_(model.head.cls_score.weight)
    return model


def losses_of(model):
    torch.manual_seed(1)  # of the regions that are sampled
    with EventStorage():
        return model(photographs())


@torch.no_grad()
def detections_of(model):
    return [each["instances"] for each in model.eval()(photographs())]


@pytest.mark.parametrize("architecture, block", a_few(CASES, 4))
def test_losses_and_detections_are_the_cpus(slim_cfg, monkeypatch, architecture, block):
    cfg = configured(slim_cfg, architecture, block)
    model = built(cfg, "cpu")
    state = copy.deepcopy(model.state_dict())
    losses, detections = losses_of(model), detections_of(model)
    with simulated_gpu(monkeypatch):
        there = built(cfg, "cuda:0")
        there.load_state_dict(state)
        on_gpu, found = losses_of(there), detections_of(there)
    assert on_gpu.keys() == losses.keys()
    for name, loss in on_gpu.items():
        assert isinstance(loss, OnGPU) and loss.dtype == losses[name].dtype
        torch.testing.assert_close(loss.values, losses[name].detach())
    for on_gpu, on_cpu in zip(found, detections, strict=True):
        assert isinstance(on_gpu.scores, OnGPU) and len(on_gpu) > 0
        torch.testing.assert_close(on_gpu.scores.values, on_cpu.scores)
        torch.testing.assert_close(on_gpu.pred_boxes.tensor.values, on_cpu.pred_boxes.tensor)


@pytest.mark.parametrize("architecture, block, dtype", a_few(AUTOCAST, 9), ids=str)
def test_under_autocast(slim_cfg, monkeypatch, architecture, block, dtype):
    cfg = configured(slim_cfg, architecture, block)
    types = {}
    with simulated_gpu(monkeypatch, autocast=dtype):
        model = built(cfg, "cuda:0")
        for name, module in model.backbone.named_modules():
            if isinstance(module, torch.nn.Conv2d):
                module.register_forward_hook(
                    lambda module, args, output, name=name: types.update({name: output.dtype})
                )
        for loss in losses_of(model).values():
            assert isinstance(loss, OnGPU) and loss.dtype == torch.float32 and torch.isfinite(loss)
        for found in detections_of(model):
            assert isinstance(found.scores, OnGPU) and torch.isfinite(found.scores).all()
    assert set(types.values()) == {dtype}


def test_what_is_left_on_the_cpu_is_found(slim_cfg, monkeypatch):
    class Forgetful(ENLBlock):
        def forward(self, x, extent=None):
            return super().forward(x, extent) + torch.ones(x.shape[1], 1, 1)

    with simulated_gpu(monkeypatch):
        block = Forgetful(8).to("cuda:0")
        with pytest.raises(RuntimeError, match=r"shape \(8, 1, 1\) is on the CPU"):
            block(torch.randn(1, 8, 6, 6, device="cuda:0"))
