"""A plain detector's checkpoint in the ENL system: what fits, what is new, and what is said."""

import logging
import pickle

import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.modeling import build_model
from torch import nn

from enl_detectron2.training.checkpoint import ENLCheckpointer
from enl_detectron2.training.errors import ConfigError

PROJECTIONS = ("theta", "phi", "g", "out")
DETECTORS = ("Faster R-CNN", "Mask R-CNN", "RetinaNet")


@pytest.fixture
def log(caplog, monkeypatch):
    """The records of detectron2's loggers, which don't reach pytest once they are set up."""
    for name in ("fvcore", "detectron2"):
        monkeypatch.setattr(logging.getLogger(name), "propagate", True)
    caplog.set_level(logging.INFO)
    return caplog


def said(log, level):
    """What the checkpointer itself said at this level."""
    records = [record for record in log.records if record.name.startswith("fvcore")]
    return [record.getMessage() for record in records if record.levelno == level]


def detector(cfg, name, backbone="ENL_FPN"):
    cfg = cfg.clone()
    cfg.MODEL.BACKBONE.NAME = backbone
    cfg.MODEL.MASK_ON = name == "Mask R-CNN"
    cfg.MODEL.ROI_MASK_HEAD.CONV_DIM = 16
    if name == "RetinaNet":
        cfg.MODEL.META_ARCHITECTURE = "RetinaNet"
        cfg.MODEL.FPN.IN_FEATURES = ["res3", "res4", "res5"]
        cfg.MODEL.ENL_FPN.TOP_BLOCK = "LastLevelP6P7"
        if backbone != "ENL_FPN":
            cfg.MODEL.BACKBONE.NAME = "build_retinanet_resnet_fpn_backbone"
    return build_model(cfg)


def plain(cfg, name="Faster R-CNN"):
    return detector(cfg, name, "build_resnet_fpn_backbone")


def save_pth(model, folder):
    DetectionCheckpointer(model, str(folder)).save("plain")
    return str(folder / "plain.pth")


def save_pkl(model, folder, **extra):
    """As detectron2's model zoo has them: arrays, and who made them."""
    arrays = {name: value.numpy() for name, value in model.state_dict().items()}
    content = {"model": arrays, "__author__": "Detectron2 Model Zoo", **extra}
    (folder / "plain.pkl").write_bytes(pickle.dumps(content))
    return str(folder / "plain.pkl")


def save_heuristic_pkl(model, folder):
    return save_pkl(model, folder, matching_heuristics=True)


def new_keys(levels=(3, 4, 5)):
    return {
        f"backbone.fpn_relation{level}.{projection}.{kind}"
        for level in levels
        for projection in PROJECTIONS
        for kind in ("weight", "bias")
    }


def listed(message):
    return {line.strip() for line in message.splitlines()[1:]}


@pytest.mark.parametrize("save", [save_pth, save_pkl, save_heuristic_pkl])
@pytest.mark.parametrize("name", DETECTORS)
def test_all_of_a_plain_detector_fits_and_the_new_keys_are_listed(
    slim_cfg, tmp_path, log, name, save
):
    old, model = plain(slim_cfg, name), detector(slim_cfg, name)
    assert model.state_dict().keys() - old.state_dict().keys() == new_keys()
    ENLCheckpointer(model).load(save(old, tmp_path))
    for key, value in old.state_dict().items():
        assert torch.equal(model.state_dict()[key], value), key
    [message] = [text for text in said(log, logging.INFO) if "new to the checkpoint" in text]
    assert listed(message) == new_keys()
    assert said(log, logging.WARNING) == []


def test_a_block_bottom_up_is_new_as_well(slim_cfg, tmp_path, log):
    slim_cfg.MODEL.ENL_FPN.BOTTOM_UP = "build_non_local_resnet_backbone"
    model = detector(slim_cfg, "Faster R-CNN")
    ENLCheckpointer(model).load(save_pth(plain(slim_cfg), tmp_path))
    [message] = [text for text in said(log, logging.INFO) if "new to the checkpoint" in text]
    non_local = {k for k in listed(message) if k.startswith("backbone.bottom_up.res4.non_local.")}
    assert len(non_local) == 8
    assert listed(message) - non_local == new_keys()
    assert said(log, logging.WARNING) == []


def test_changed_classes_are_said_and_all_else_is_loaded(slim_cfg, tmp_path, log):
    old = plain(slim_cfg)
    path = save_pth(old, tmp_path)
    slim_cfg.MODEL.ROI_HEADS.NUM_CLASSES = 3
    model = detector(slim_cfg, "Faster R-CNN")
    ENLCheckpointer(model).load(path)
    [warning] = said(log, logging.WARNING)
    predictor = "roi_heads.box_predictor."
    assert {line.split(":")[0] for line in listed(warning)} == {
        predictor + key
        for key in ("cls_score.weight", "cls_score.bias", "bbox_pred.weight", "bbox_pred.bias")
    }
    assert "cls_score.bias: (81,) in the checkpoint, (4,) in the model" in warning
    for key, value in old.state_dict().items():
        if not key.startswith(predictor):
            assert torch.equal(model.state_dict()[key], value), key
    with pytest.raises(
        ValueError, match=r"does not fit: 4 of(.|\n)*cls_score.bias: \(81,\) in the"
    ):
        ENLCheckpointer(model, complete=True).load(path)


def test_a_missing_head_is_a_warning_in_training_and_an_error_otherwise(slim_cfg, tmp_path, log):
    path = save_pth(plain(slim_cfg), tmp_path)
    model = detector(slim_cfg, "Mask R-CNN")
    ENLCheckpointer(model).load(path)
    [warning] = said(log, logging.WARNING)
    head = {key for key in model.state_dict() if "mask_head" in key}
    assert head and listed(warning) == head and warning.startswith("NOT IN THE CHECKPOINT")
    with pytest.raises(ValueError, match=rf"does not fit: {len(head)} of"):
        ENLCheckpointer(model, complete=True).load(path)


def test_a_model_that_is_used_as_it_is_needs_weights(slim_cfg):
    model = plain(slim_cfg)
    with pytest.raises(ConfigError, match="MODEL.WEIGHTS is empty"):
        ENLCheckpointer(model, complete=True).resume_or_load("", resume=False)
    ENLCheckpointer(model).resume_or_load("", resume=False)  # training from scratch


def test_what_the_model_has_no_place_for_is_a_warning(slim_cfg, tmp_path, log):
    old = plain(slim_cfg, "Mask R-CNN")
    ENLCheckpointer(detector(slim_cfg, "Faster R-CNN")).load(save_pth(old, tmp_path))
    [warning] = said(log, logging.WARNING)
    assert listed(warning) == {key for key in old.state_dict() if "mask_head" in key}
    assert "NO PLACE" in warning


def test_another_models_checkpoint_is_an_error(slim_cfg, tmp_path):
    path = save_pth(nn.Linear(2, 2), tmp_path)
    with pytest.raises(ValueError, match="No parameter of the checkpoint fits"):
        ENLCheckpointer(detector(slim_cfg, "Faster R-CNN")).load(path)


def test_a_bottom_up_networks_checkpoint_is_no_cause_for_alarm(slim_cfg, tmp_path, log):
    network = plain(slim_cfg).backbone.bottom_up
    network.fc = nn.Linear(2, 2)  # a classifier's
    path = save_heuristic_pkl(network, tmp_path)
    model = detector(slim_cfg, "Faster R-CNN")
    ENLCheckpointer(model).load(path)
    loaded = model.backbone.bottom_up.state_dict()
    for key, value in network.state_dict().items():
        assert key.startswith("fc.") or torch.equal(loaded[key], value), key
    assert any("a bottom-up network's" in text for text in said(log, logging.INFO))
    assert said(log, logging.WARNING) == []
    # But it is no detector.
    with pytest.raises(ValueError, match="does not fit"):
        ENLCheckpointer(model, complete=True).load(path)
    # Half a network is one.
    log.clear()
    del network.res5
    ENLCheckpointer(model).load(save_heuristic_pkl(network, tmp_path))
    [warning] = said(log, logging.WARNING)
    assert {key.split(".")[2] for key in listed(warning)} == {"res5"}


def test_a_detector_of_which_only_the_bottom_up_fits_is_loud(slim_cfg, tmp_path, log):
    old = nn.ModuleDict({"backbone": plain(slim_cfg).backbone})
    path = save_pth(old, tmp_path)
    slim_cfg.MODEL.FPN.OUT_CHANNELS = 8
    ENLCheckpointer(detector(slim_cfg, "Faster R-CNN")).load(path)
    missing, shapes = said(log, logging.WARNING)
    assert any("roi_heads" in key for key in listed(missing))
    assert all("fpn_" in key for key in listed(shapes))


def test_untrained_blocks_are_a_warning_where_nothing_is_trained(slim_cfg, tmp_path, log):
    model = detector(slim_cfg, "Faster R-CNN")
    ENLCheckpointer(model, complete=True).load(save_pth(plain(slim_cfg), tmp_path))
    [warning] = said(log, logging.WARNING)
    assert listed(warning) == new_keys()
