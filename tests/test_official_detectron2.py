"""What only a detectron2 with compiled operators can do, done with ENL_FPN.

The wheel of the default environment has none; ``make test-official`` builds a checkout with them.
"""

import pytest
import torch  # before detectron2._C, which is linked with it
from detectron2 import model_zoo
from detectron2.config import get_cfg
from detectron2.layers import DeformConv
from detectron2.modeling import build_model
from detectron2.structures import Instances, RotatedBoxes
from detectron2.utils.events import EventStorage
from tiny_training import make_slim

import enl_detectron2

pytest.importorskip(
    "detectron2._C", reason="this detectron2 has no compiled operators: see make test-official"
)

IMAGE = torch.arange(3 * 64 * 96).reshape(3, 64, 96) % 256


def slim(path):
    """A configuration of detectron2's model zoo with ENL_FPN, reduced widths and random weights."""
    cfg = get_cfg()
    enl_detectron2.add_enl_config(cfg)
    cfg.merge_from_file(model_zoo.get_config_file(path))
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.WEIGHTS = ""
    cfg.MODEL.BACKBONE.NAME = "ENL_FPN"
    make_slim(cfg)
    cfg.MODEL.ROI_BOX_HEAD.FC_DIM = 16
    cfg.MODEL.ROI_MASK_HEAD.CONV_DIM = 16
    cfg.MODEL.RPN.PRE_NMS_TOPK_TRAIN = cfg.MODEL.RPN.PRE_NMS_TOPK_TEST = 50
    cfg.MODEL.RPN.POST_NMS_TOPK_TRAIN = cfg.MODEL.RPN.POST_NMS_TOPK_TEST = 50
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 4
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.0  # random weights claim something anywhere
    cfg.INPUT.MIN_SIZE_TEST = 64
    return cfg


def test_rotated_boxes_train_and_are_found():
    cfg = slim("COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml")
    cfg.MODEL.ANCHOR_GENERATOR.NAME = "RotatedAnchorGenerator"
    cfg.MODEL.ANCHOR_GENERATOR.ANGLES = [[-45, 0, 45]]
    cfg.MODEL.PROPOSAL_GENERATOR.NAME = "RRPN"
    cfg.MODEL.RPN.BBOX_REG_WEIGHTS = (1.0, 1.0, 1.0, 1.0, 1.0)
    cfg.MODEL.ROI_HEADS.NAME = "RROIHeads"
    cfg.MODEL.ROI_BOX_HEAD.POOLER_TYPE = "ROIAlignRotated"
    cfg.MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS = (10.0, 10.0, 5.0, 5.0, 1.0)
    torch.manual_seed(0)
    model = build_model(cfg)

    truth = Instances((64, 96))
    truth.gt_boxes = RotatedBoxes(torch.tensor([[48.0, 32.0, 40.0, 20.0, 30.0]]))
    truth.gt_classes = torch.tensor([3])
    with EventStorage():
        losses = model([{"image": IMAGE, "instances": truth}])
    sum(losses.values()).backward()
    for name, parameter in model.backbone.named_parameters():
        if "relations" in name and parameter.requires_grad:
            assert torch.isfinite(parameter.grad).all(), name
            assert parameter.grad.abs().sum() > 0, name

    [found] = model.eval()([{"image": IMAGE}])
    boxes = found["instances"].pred_boxes
    assert isinstance(boxes, RotatedBoxes) and len(boxes) > 0
    assert torch.isfinite(boxes.tensor).all()


def test_deformable_convolutions_below_the_pyramid():
    """Inference only: detectron2's deformable convolutions have no gradient on the CPU."""
    model = build_model(slim("Misc/mask_rcnn_R_50_FPN_1x_dconv_c3-c5.yaml")).eval()
    layers = [m for m in model.backbone.bottom_up.modules() if isinstance(m, DeformConv)]
    assert len(layers) == 4 + 6 + 3  # the blocks of stages 3 to 5
    before = model.backbone(torch.ones(1, 3, 64, 96))["p3"]
    with torch.no_grad():
        for name, parameter in model.backbone.bottom_up.named_parameters():
            if name.endswith("conv2_offset.bias"):
                parameter.fill_(0.5)
    moved = model.backbone(torch.ones(1, 3, 64, 96))["p3"]
    assert torch.isfinite(moved).all() and not torch.allclose(before, moved)
    assert "instances" in model([{"image": IMAGE}])[0]
