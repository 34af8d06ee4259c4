from pathlib import Path

import pytest
from detectron2.config import CfgNode
from omegaconf import DictConfig

import enl_detectron2
from enl_detectron2 import model_zoo
from enl_detectron2.modeling import ENL_FPN

CONFIGS = Path(__file__).parents[1] / "configs"


def test_configurations_of_a_checkout_are_found():
    for name in ("enl_rcnn_R50.yaml", "ablations_600px/nl_rcnn_R50.yaml", "lazy/enl_rcnn_R50.py"):
        assert Path(enl_detectron2.model_zoo.get_config_file(name)) == CONFIGS / name
    with pytest.raises(RuntimeError, match="no_such.yaml not available in enl_detectron2's model"):
        model_zoo.get_config_file("no_such.yaml")


def test_both_kinds_of_configuration_are_read():
    cfg = model_zoo.get_config("enl_rcnn_R50.yaml")
    assert isinstance(cfg, CfgNode) and cfg.MODEL.ENL_FPN.BLOCK == "ENLBlock"
    cfg = model_zoo.get_config("lazy/enl_rcnn_R50.py")
    assert isinstance(cfg, DictConfig) and cfg.model.backbone.out_channels == 256


@pytest.mark.parametrize("name", ["cpu/digits_enl_rcnn.yaml", "lazy/enl_rcnn_R50.py"])
def test_a_model_by_its_configurations_name(name):
    model = model_zoo.get(name, device="cpu")
    assert isinstance(model.backbone, ENL_FPN) and model.training
    assert {parameter.device.type for parameter in model.parameters()} == {"cpu"}
