from pathlib import Path

import pytest
from detectron2.config import get_cfg

from enl_detectron2 import add_enl_config

CONFIGS = Path(__file__).parents[1] / "configs"


@pytest.fixture
def slim_cfg():
    """Faster R-CNN R50 with ENL_FPN on the CPU, all of its widths reduced."""
    cfg = get_cfg()
    add_enl_config(cfg)
    cfg.merge_from_file(str(CONFIGS / "cpu/Base-slim-RCNN-FPN.yaml"))
    cfg.MODEL.BACKBONE.NAME = "ENL_FPN"
    cfg.MODEL.RESNETS.STEM_OUT_CHANNELS = 8
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 16
    cfg.MODEL.RESNETS.WIDTH_PER_GROUP = 4
    cfg.MODEL.FPN.OUT_CHANNELS = 16
    return cfg
