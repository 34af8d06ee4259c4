"""Every architecture of detectron2 on ENL_FPN: its losses reach the blocks, and it infers.

Each case changes of detectron2's own configuration what projects_readme.md says, and the widths.
"""

import pytest
import torch
from detectron2 import model_zoo
from detectron2.config import get_cfg, instantiate
from detectron2.modeling import build_model
from detectron2.structures import Keypoints
from detectron2.utils.events import EventStorage
from nightly import a_few
from tiny_training import make_slim, photographs

from enl_detectron2 import add_enl_config
from enl_detectron2.modeling import ENL_FPN

FILES = {
    "Faster R-CNN": "COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml",
    "Mask R-CNN": "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml",
    "Cascade Mask R-CNN": "Misc/cascade_mask_rcnn_R_50_FPN_1x.yaml",
    "Keypoint R-CNN": "COCO-Keypoints/keypoint_rcnn_R_50_FPN_1x.yaml",
    "RetinaNet": "COCO-Detection/retinanet_R_50_FPN_1x.yaml",
    "Panoptic FPN": "COCO-PanopticSegmentation/panoptic_fpn_R_50_1x.yaml",
    "Semantic FPN": "Misc/semantic_R_50_FPN_1x.yaml",
}
FOUND = {
    "Panoptic FPN": {"sem_seg", "instances", "panoptic_seg"},
    "Semantic FPN": {"sem_seg"},
}


def annotated():
    """Photographs with boxes, masks, 17 keypoints of people, and a map of stuff."""
    images = photographs()
    for image in images:
        instances, (height, width) = image["instances"], image["image"].shape[1:]
        instances.gt_classes = torch.zeros(2, dtype=torch.long)
        boxes = instances.gt_boxes.tensor
        places = boxes[:, None, :2] + torch.rand(2, 17, 2) * (
            boxes[:, None, 2:] - boxes[:, None, :2]
        )
        instances.gt_keypoints = Keypoints(torch.cat([places, torch.full((2, 17, 1), 2)], dim=2))
        image["sem_seg"] = torch.randint(54, (height, width))
    return images


def learns_and_infers(model):
    """What it gives for each image."""
    assert isinstance(model.backbone, ENL_FPN)
    torch.manual_seed(0)
    with EventStorage():
        losses = model.train()(annotated())
    sum(losses.values()).backward()
    parameters = dict(model.backbone.relations.named_parameters())
    assert len(parameters) == 24  # three blocks of four projections
    for name, parameter in parameters.items():
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.any() or name.endswith("phi.bias"), name
    with torch.no_grad():
        return model.eval()(annotated())


@pytest.mark.parametrize("name", a_few(FILES, 4))
def test_by_yaml(name):
    cfg = get_cfg()
    add_enl_config(cfg)
    cfg.merge_from_file(model_zoo.get_config_file(FILES[name]))
    cfg.MODEL.BACKBONE.NAME = "ENL_FPN"
    if name == "RetinaNet":
        cfg.MODEL.ENL_FPN.TOP_BLOCK = "LastLevelP6P7"
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    cfg.MODEL.RESNETS.NORM = "BN"
    make_slim(cfg)
    cfg.MODEL.FPN.OUT_CHANNELS = 32  # as group norm, in one of the heads, has 32 groups
    cfg.MODEL.ROI_BOX_HEAD.FC_DIM = cfg.MODEL.SEM_SEG_HEAD.CONVS_DIM = 32
    cfg.MODEL.ROI_MASK_HEAD.CONV_DIM = 16
    cfg.MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS = [16]
    cfg.MODEL.RPN.POST_NMS_TOPK_TRAIN = cfg.MODEL.RPN.POST_NMS_TOPK_TEST = 50
    # Untrained, they score nothing above the usual thresholds.
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = cfg.MODEL.RETINANET.SCORE_THRESH_TEST = 0.0
    for found in learns_and_infers(build_model(cfg)):
        assert found.keys() == FOUND.get(name, {"instances"})
        assert name == "Semantic FPN" or len(found["instances"]) > 0


def test_fcos_by_lazy_config():
    """At full width, with norms that random weights need; detectron2 has it by LazyConfig alone."""
    model = model_zoo.get_config("common/models/fcos.py").model
    model.backbone._target_ = ENL_FPN
    resnet = model.backbone.bottom_up
    resnet.freeze_at, resnet.stem.norm, resnet.stages.norm = 0, "BN", "BN"
    model.test_score_thresh = 0.0
    assert all(len(found["instances"]) > 0 for found in learns_and_infers(instantiate(model)))
