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
    # Frozen batch norms of random weights make features, and so boxes, of any size, of which
    # detectron2's rotated IoU may be below 0.
    cfg.MODEL.RESNETS.NORM = "LN"
    cfg.MODEL.ANCHOR_GENERATOR.NAME = "RotatedAnchorGenerator"
    cfg.MODEL.PROPOSAL_GENERATOR.NAME = "RRPN"
    cfg.MODEL.RPN.BBOX_REG_WEIGHTS = (1.0, 1.0, 1.0, 1.0, 1.0)
    cfg.MODEL.ROI_HEADS.NAME = "RROIHeads"
    cfg.MODEL.ROI_BOX_HEAD.POOLER_TYPE = "ROIAlignRotated"
    cfg.MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS = (10.0, 10.0, 5.0, 5.0, 1.0)
    model = build_model(cfg)
    truth = Instances((64, 96))
    truth.gt_boxes = RotatedBoxes(torch.tensor([[48.0, 32.0, 40.0, 20.0, 30.0]]))
    truth.gt_classes = torch.tensor([3])
    with EventStorage():
        losses = model([{"image": IMAGE, "instances": truth}])
    sum(losses.values()).backward()
    for name, parameter in model.backbone.relations.named_parameters():
        assert torch.isfinite(parameter.grad).all() and parameter.grad.any(), name
    [found] = model.eval()([{"image": IMAGE}])
    assert isinstance(found["instances"].pred_boxes, RotatedBoxes) and len(found["instances"]) > 0


def test_deformable_convolutions_below_the_pyramid():
    """Inference only: detectron2's deformable convolutions have no gradient on the CPU."""
    model = build_model(slim("Misc/mask_rcnn_R_50_FPN_1x_dconv_c3-c5.yaml")).eval()
    assert any(isinstance(m, DeformConv) for m in model.backbone.bottom_up.modules())
    assert "instances" in model([{"image": IMAGE}])[0]
