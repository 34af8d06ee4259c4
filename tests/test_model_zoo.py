from pathlib import Path

import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode
from detectron2.data.detection_utils import read_image
from detectron2.engine import DefaultPredictor
from detectron2.utils.file_io import PathManager
from nightly import a_few
from omegaconf import DictConfig
from pycocotools.coco import COCO

import enl_detectron2
from enl_detectron2 import model_zoo
from enl_detectron2.layers import ENLBlock
from enl_detectron2.modeling import ENL_FPN, relation_blocks
from enl_detectron2.training.config import load_config
from enl_detectron2.utils.errors import MissingFile

TRAINED = "trained/nuclei_enl_rcnn_lite0.yaml"
PLAIN = "trained/nuclei_rcnn_lite0.yaml"
CONFIGS = Path(__file__).parents[1] / "configs"


def test_configurations_of_a_checkout_are_found():
    for name in ("enl_rcnn_R50.yaml", "ablations_600px/nl_rcnn_R50.yaml", "lazy/enl_rcnn_R50.py"):
        assert Path(enl_detectron2.model_zoo.get_config_file(name)) == CONFIGS / name
    with pytest.raises(RuntimeError, match="no_such.yaml not available in enl_detectron2's model"):
        model_zoo.get_config_file("no_such.yaml")


@pytest.mark.parametrize("name", ["cpu/digits_enl_rcnn.yaml", "lazy/enl_rcnn_R50.py"])
def test_a_model_by_its_configurations_name(name):
    kind = CfgNode if name.endswith("yaml") else DictConfig
    assert isinstance(model_zoo.get_config(name), kind)
    model = model_zoo.get(name, device="cpu")
    assert isinstance(model.backbone, ENL_FPN) and model.training
    assert {parameter.device.type for parameter in model.parameters()} == {"cpu"}


def test_trained_weights_are_named_as_a_configuration_does():
    weights = model_zoo.get_checkpoint_file(TRAINED)
    assert weights == "enl_detectron2://nuclei_enl_rcnn_lite0.pth"
    assert weights == model_zoo.get_config(TRAINED, trained=True).MODEL.WEIGHTS
    assert model_zoo.get_config(TRAINED).MODEL.WEIGHTS == ""
    for name in ("enl_rcnn_R50.yaml", "lazy/enl_rcnn_R50.py"):
        with pytest.raises(RuntimeError, match=f"{name} has no trained weights .*; {TRAINED}, "):
            model_zoo.get_checkpoint_file(name)


@pytest.mark.parametrize("name", a_few([TRAINED, PLAIN], 2))
def test_a_trained_model_is_what_the_checkpointer_loads(name):
    pytest.importorskip("efficientnet_lite_pytorch")
    model = model_zoo.get(name, trained=True, device="cpu")
    assert model.training and {p.dtype for p in model.parameters()} == {torch.float32}
    other = model_zoo.get(name, device="cpu")
    weights = model_zoo.get_checkpoint_file(name)
    left = DetectionCheckpointer(other).load(weights)  # detectron2's own
    assert left["class_names"] == ["nucleus"] and float(left["results"]["AP"].split()[0]) > 50
    for key, value in model.state_dict().items():
        assert torch.equal(value, other.state_dict()[key]), key
    # What PyTorch 2.5 reads too, without running anything.
    content = torch.load(PathManager.get_local_path(weights), weights_only=True)
    # Blocks of other options, which have the same parameters, are refused by this.
    stored = content.get("relation_blocks", {})
    blocks = relation_blocks(model).items()
    assert stored.keys() == {name for name, block in blocks if isinstance(block, ENLBlock)}
    assert {value.dtype for value in content["model"].values()} <= {torch.float16, torch.int64}


def test_detectron2s_own_predictor_takes_a_trained_model():
    pytest.importorskip("efficientnet_lite_pytorch")
    cfg = model_zoo.get_config(TRAINED, trained=True)
    cfg.MODEL.DEVICE = "cpu"
    image = read_image(str(model_zoo.PHOTOGRAPHS / "fluorescence_small.jpg"), format="BGR")
    found = DefaultPredictor(cfg)(image)["instances"]
    annotated = COCO(model_zoo.PHOTOGRAPHS / "nuclei.json")
    [number] = [i for i, one in annotated.imgs.items() if "fluorescence_small" in one["file_name"]]
    there = len(annotated.getAnnIds(number))
    assert 0.5 * there < int((found.scores >= 0.5).sum()) < 2 * there


def test_a_command_takes_a_name_of_the_zoo_for_a_file():
    cfg = load_config(TRAINED, ["TEST.DETECTIONS_PER_IMAGE", "7"])
    assert model_zoo.get_checkpoint_file(TRAINED) == cfg.MODEL.WEIGHTS
    assert cfg.TEST.DETECTIONS_PER_IMAGE == 7
    assert load_config(TRAINED, ["MODEL.WEIGHTS", "mine.pth"]).MODEL.WEIGHTS == "mine.pth"
    assert load_config(str(CONFIGS / TRAINED), []).MODEL.WEIGHTS == ""  # a file is that file
    for name in ("none.yaml", "none.py", ""):
        with pytest.raises(MissingFile, match=f"'{name}' is neither a file nor a configuration of"):
            load_config(name)


def test_weights_come_with_a_card_and_are_small():
    folder = Path(model_zoo.__file__).parent / "weights"
    files = list(folder.glob("*.pth"))
    assert files
    for file in files:
        assert file.stat().st_size <= 8e6
        assert file.with_suffix(".md").read_text().startswith(f"# {file.stem}\n")
