"""detectron2's own configurations of FPN detectors, with ENL_FPN in FPN's place, are accepted.

They are built at their full size on PyTorch's meta device, which allocates nothing.
"""

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from detectron2 import model_zoo
from detectron2.config import instantiate
from detectron2.modeling.backbone import FPN
from omegaconf import OmegaConf

from enl_detectron2.modeling import ENL_FPN
from enl_detectron2.training.config import load_config
from enl_detectron2.training.trainer import Trainer

ZOO = Path(model_zoo.__file__).with_name("configs")
SWAPS = {
    "build_resnet_fpn_backbone": {"MODEL.BACKBONE.NAME": "ENL_FPN"},
    "build_retinanet_resnet_fpn_backbone": {
        "MODEL.BACKBONE.NAME": "ENL_FPN",
        "MODEL.ENL_FPN.TOP_BLOCK": "LastLevelP6P7",
    },
}
QUICK = ("COCO-Detection/retinanet_R_50_FPN_1x", "COCO-Keypoints/keypoint_rcnn_R_50_FPN_1x")


def files(suffix):
    """All of them, of which those that are not quick are slow."""
    for path in sorted(ZOO.rglob(f"*{suffix}")):
        name = str(path.relative_to(ZOO))
        if not (path.name.startswith("Base") or name.startswith("common/")):
            marks = () if name.removesuffix(suffix) in QUICK else pytest.mark.slow
            yield pytest.param(path, id=name, marks=marks)


@pytest.mark.parametrize("path", [*files(".yaml")])
def test_yaml(path):
    cfg = load_config(path)
    swap = SWAPS.get(cfg.MODEL.BACKBONE.NAME)
    if swap is None:
        pytest.skip(f"{cfg.MODEL.BACKBONE.NAME} is no FPN")
    if any(cfg.MODEL.RESNETS.DEFORM_ON_PER_STAGE) and not find_spec("detectron2._C"):
        pytest.skip("deformable convolutions need detectron2's compiled operators")
    options = swap | {"MODEL.DEVICE": "meta"}
    cfg.merge_from_list([part for item in options.items() for part in item])
    with torch.device("meta"):
        model = Trainer.build_model(cfg)
    assert isinstance(model.backbone, ENL_FPN)
    Trainer.build_lr_scheduler(cfg, Trainer.build_optimizer(cfg, model))


@pytest.mark.parametrize("path", [*files(".py")])
def test_lazy(path):
    cfg = load_config(path)
    backbone = OmegaConf.select(cfg, "model.backbone")
    if backbone is None or backbone.get("_target_") is not FPN:
        pytest.skip("its backbone is no FPN")
    backbone._target_ = ENL_FPN
    with torch.device("meta"):
        model = instantiate(cfg.model)
    assert isinstance(model.backbone, ENL_FPN)
    cfg.optimizer.params.model = model
    instantiate(cfg.optimizer)
    instantiate(cfg.lr_multiplier)
