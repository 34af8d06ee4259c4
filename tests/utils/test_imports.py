"""A user's own block by ``--import``."""

import argparse
import sys
from pathlib import Path

import pytest
from detectron2.modeling import build_model

from enl_detectron2.modeling import RELATION_BLOCK_REGISTRY
from enl_detectron2.training.config import load_config
from enl_detectron2.utils import imports
from enl_detectron2.utils.errors import ConfigError

ROOT = Path(__file__).parents[2]
BLOCK = """
import torch
from torch import nn
from enl_detectron2.modeling import RELATION_BLOCK_REGISTRY


@RELATION_BLOCK_REGISTRY.register()
class LearnedGain(nn.Module):
    def __init__(self, channels, *, start=1.0):
        super().__init__()
        self.gain = nn.Parameter(torch.full((channels, 1, 1), float(start)))

    def forward(self, x):
        return x * self.gain
"""
OPTIONS = ["MODEL.ENL_FPN.BLOCK", "LearnedGain", "MODEL.ENL_FPN.BLOCK_OPTIONS.start", "0.5"]


@pytest.fixture
def block_file(tmp_path, monkeypatch):
    monkeypatch.setattr(RELATION_BLOCK_REGISTRY, "_obj_map", dict(RELATION_BLOCK_REGISTRY._obj_map))
    monkeypatch.setattr(imports, "IMPORTED", [])
    path = tmp_path / "learned_gain.py"
    path.write_text(BLOCK)
    yield path
    sys.modules.pop("learned_gain", None)


def test_a_module_is_imported_once_and_its_options_are_keys(block_file):
    for _ in range(2):
        assert imports.import_module(str(block_file)) == str(block_file)
    cfg = load_config(str(ROOT / "configs/cpu/digits_enl_rcnn.yaml"), OPTIONS)
    model = build_model(cfg)
    gains = [value for name, value in model.named_parameters() if name.endswith(".gain")]
    assert gains and all((gain == 0.5).all() for gain in gains)


@pytest.mark.parametrize(
    "name, said",
    [("missing.py", "there is no file missing.py"), ("no_such_module", "no module 'no_such")],
)
def test_what_is_not_there_is_named(capsys, name, said):
    with pytest.raises(ConfigError, match=said):
        imports.import_module(name)
    parser = argparse.ArgumentParser()
    imports.add_import_option(parser)
    with pytest.raises(SystemExit):
        parser.parse_args(["--import", name])
    assert said in capsys.readouterr().err
