"""detectron2's own configurations of FPN detectors, with ENL_FPN in FPN's place, are accepted.

They are built at their full size on PyTorch's meta device, which allocates nothing.
"""

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from detectron2 import model_zoo
from detectron2.config import instantiate
from detectron2.layers import FrozenBatchNorm2d
from detectron2.modeling.backbone import FPN
from enl_detectron2.training.checks import check_lazy, check_levels, check_yaml
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
YAML_FILES = sorted(path for path in ZOO.rglob("*.yaml") if not path.name.startswith("Base"))
PARTS = ZOO / "common"  # of LazyConfigs
LAZY_FILES = sorted(path for path in ZOO.rglob("*.py") if PARTS not in path.parents)


def relative(path):
    return str(path.relative_to(ZOO))


def swapped(path):
    """The configuration of a file with ENL_FPN; skips those without an FPN."""
    cfg = load_config(path)
    swap = SWAPS.get(cfg.MODEL.BACKBONE.NAME)
    if swap is None:
        pytest.skip(f"{cfg.MODEL.BACKBONE.NAME} is no FPN")
    if any(cfg.MODEL.RESNETS.DEFORM_ON_PER_STAGE) and not find_spec("detectron2._C"):
        pytest.skip("deformable convolutions need detectron2's compiled operators")
    options = swap | {"MODEL.DEVICE": "meta", "SOLVER.AMP.ENABLED": False, "DATASETS.TEST": ()}
    cfg.merge_from_list([part for item in options.items() for part in item])
    return cfg


@pytest.mark.parametrize("path", YAML_FILES, ids=relative)
def test_yaml(path):
    cfg = swapped(path)
    check_yaml(cfg)
    with torch.device("meta"):
        model = Trainer.build_model(cfg)
    assert isinstance(model.backbone, ENL_FPN)
    Trainer.build_lr_scheduler(cfg, Trainer.build_optimizer(cfg, model))


@pytest.mark.parametrize("path", LAZY_FILES, ids=relative)
def test_lazy(path):
    cfg = load_config(path)
    backbone = OmegaConf.select(cfg, "model.backbone")
    if backbone is None or backbone.get("_target_") is not FPN:
        pytest.skip("its backbone is no FPN")
    backbone._target_ = ENL_FPN
    cfg.train.amp.enabled = False
    check_lazy(cfg)
    with torch.device("meta"):
        model = instantiate(cfg.model)
    check_levels(cfg, model)
    cfg.optimizer.params.model = model
    instantiate(cfg.optimizer)
    instantiate(cfg.lr_multiplier)


@pytest.mark.parametrize(
    "options",
    [
        "MODEL.ANCHOR_GENERATOR.SIZES [32,64]",  # for each level, as its documentation says
        "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS [0.5,1.0]",
        "INPUT.FORMAT YUV-BT.601",
        "MODEL.RPN.NMS_THRESH 1.5",
        "MODEL.ROI_BOX_HEAD.NORM BN",
        "SOLVER.WARMUP_ITERS 0",
    ],
)
def test_values_that_detectron2_accepts(options):
    path = ZOO / "COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml"
    cfg = swapped(path)
    cfg.merge_from_list(options.split())
    check_yaml(cfg)
    with torch.device("meta"):
        Trainer.build_model(cfg)


def test_a_norm_may_be_a_function():
    """As the documentation of detectron2's get_norm says."""
    cfg = load_config(ZOO / "COCO-Detection/retinanet_R_50_FPN_1x.py")
    cfg.model.backbone._target_ = ENL_FPN
    cfg.model.backbone.norm = lambda channels: FrozenBatchNorm2d(channels)
    cfg.train.amp.enabled = False
    check_lazy(cfg)
    with torch.device("meta"):
        assert isinstance(instantiate(cfg.model).backbone.fpn_output3.norm, FrozenBatchNorm2d)
