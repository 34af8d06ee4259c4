import os
import runpy
import sys
from pathlib import Path

import pytest
import torch

from enl_detectron2.analysis.cost.random_model import build_random_model
from enl_detectron2.training.config import get_training_cfg

# The tests are of the CPU on any machine; detectron2 would start one process a GPU if it saw any.
os.environ["CUDA_VISIBLE_DEVICES"] = ""

CONFIGS = Path(__file__).parents[1] / "configs"


@pytest.fixture
def run_tool(monkeypatch, capsys):
    """Runs a command line in this process: its status, standard output and standard error."""

    def run(tool, *arguments):
        monkeypatch.setattr(sys, "argv", [str(tool), *map(str, arguments)])
        capsys.readouterr()
        status, said = 0, ""
        try:
            runpy.run_path(str(tool), run_name="__main__")
        except SystemExit as stop:
            status = stop.code or 0
        if isinstance(status, str):  # which Python writes to standard error when it ends
            status, said = 1, status
        out, err = capsys.readouterr()
        return status, out, err + said

    return run


@pytest.fixture
def slim_cfg():
    """Faster R-CNN R50 with ENL_FPN on the CPU, all of its widths reduced."""
    cfg = get_training_cfg()
    cfg.merge_from_file(str(CONFIGS / "cpu/Base-slim-RCNN-FPN.yaml"))
    cfg.MODEL.BACKBONE.NAME = "ENL_FPN"
    cfg.MODEL.RESNETS.STEM_OUT_CHANNELS = 8
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 16
    cfg.MODEL.RESNETS.WIDTH_PER_GROUP = 4
    cfg.MODEL.FPN.OUT_CHANNELS = 16
    return cfg


@pytest.fixture
def slim_model(slim_cfg, tmp_path):
    """Two files, the configuration and the weights of a slim model with random weights.

    It takes images as they are, and claims something anywhere, with low scores.
    """
    slim_cfg.DATASETS.TEST = ()
    slim_cfg.INPUT.MIN_SIZE_TEST = 0
    slim_cfg.MODEL.ROI_HEADS.NUM_CLASSES = 3
    slim_cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.0
    config, weights = tmp_path / "slim.yaml", tmp_path / "slim.pth"
    config.write_text(slim_cfg.dump())
    torch.save({"model": build_random_model(slim_cfg, "cpu").state_dict()}, weights)
    return config, weights
