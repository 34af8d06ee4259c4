"""A plain detector's checkpoint in the ENL system: what fits, what is new, and what is said."""

import logging
import pickle

import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.modeling import build_model
from torch import nn
from torch.optim.swa_utils import AveragedModel

from enl_detectron2.training.checkpoint import ENLCheckpointer
from enl_detectron2.training.checkpoint_files import convert_checkpoint, read_checkpoint
from enl_detectron2.utils.errors import ConfigError, MissingFile, UnsafeCheckpoint


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


def detector(cfg, backbone="ENL_FPN", mask=False):
    cfg = cfg.clone()
    cfg.MODEL.BACKBONE.NAME, cfg.MODEL.MASK_ON = backbone, mask
    cfg.MODEL.ROI_MASK_HEAD.CONV_DIM = 16
    return build_model(cfg)


def plain(cfg, mask=False):
    return detector(cfg, "build_resnet_fpn_backbone", mask)


def save_pth(model, folder):
    DetectionCheckpointer(model, str(folder)).save("plain")
    return str(folder / "plain.pth")


def save_pkl(model, folder):
    """As detectron2's model zoo has them: arrays, and who made them."""
    arrays = {name: value.numpy() for name, value in model.state_dict().items()}
    content = {"model": arrays, "__author__": "Detectron2 Model Zoo", "matching_heuristics": True}
    (folder / "plain.pkl").write_bytes(pickle.dumps(content))
    return str(folder / "plain.pkl")


def new_keys():
    return {
        f"backbone.relations.p{level}.{projection}.{kind}"
        for level in (3, 4, 5)
        for projection in ("theta", "phi", "g", "out")
        for kind in ("weight", "bias")
    }


def listed(message):
    return {line.strip() for line in message.splitlines()[1:]}


@pytest.mark.parametrize("save", [save_pth, save_pkl])
def test_all_of_a_plain_detector_fits_and_the_new_keys_are_listed(slim_cfg, tmp_path, log, save):
    old, model = plain(slim_cfg, mask=True), detector(slim_cfg, mask=True)
    assert model.state_dict().keys() - old.state_dict().keys() == new_keys()
    path = save(old, tmp_path)
    ENLCheckpointer(model).load(path)
    for key, value in old.state_dict().items():
        assert torch.equal(model.state_dict()[key], value), key
    [message] = [text for text in said(log, logging.INFO) if "new to the checkpoint" in text]
    assert listed(message) == new_keys() and said(log, logging.WARNING) == []
    # Where nothing is trained, that is a warning.
    ENLCheckpointer(detector(slim_cfg, mask=True), complete=True).load(path)
    [warning] = said(log, logging.WARNING)
    assert listed(warning) == new_keys()


def test_what_does_not_fit_is_a_warning_in_training_and_an_error_in_use(slim_cfg, tmp_path, log):
    old = plain(slim_cfg)
    path = save_pth(old, tmp_path)
    slim_cfg.MODEL.ROI_HEADS.NUM_CLASSES = 3
    model = detector(slim_cfg, mask=True)
    ENLCheckpointer(model).load(path)
    predictor = "roi_heads.box_predictor."
    keys = ("cls_score.weight", "cls_score.bias", "bbox_pred.weight", "bbox_pred.bias")
    *shapes, missing = said(log, logging.WARNING)
    assert len(shapes) == 4 and all(any(predictor + k in text for text in shapes) for k in keys)
    assert "(81,) in the checkpoint but (4,) in the model" in "".join(shapes)
    assert "roi_heads.mask_head.deconv" in missing and "box_predictor" not in missing
    for key, value in old.state_dict().items():
        if not key.startswith(predictor):
            assert torch.equal(model.state_dict()[key], value), key
    head = [key for key in model.state_dict() if "mask_head" in key]
    with pytest.raises(
        ConfigError, match=rf"not fit: {len(head) + 4} of(.|\n)*cls_score.bias: \(81,\) in the"
    ):
        ENLCheckpointer(model, complete=True).load(path)


def test_a_model_that_is_used_as_it_is_needs_weights():
    model = nn.Linear(1, 1)
    with pytest.raises(ConfigError, match="MODEL.WEIGHTS is empty"):
        ENLCheckpointer(model, complete=True).resume_or_load("", resume=False)
    ENLCheckpointer(model).resume_or_load("", resume=False)  # training from scratch


def test_a_bottom_up_networks_checkpoint_is_taken_but_no_detectors(slim_cfg, tmp_path):
    network = plain(slim_cfg).backbone.bottom_up
    network.fc = nn.Linear(2, 2)  # a classifier's
    path = save_pkl(network, tmp_path)
    model = detector(slim_cfg)
    ENLCheckpointer(model).load(path)
    loaded = model.backbone.bottom_up.state_dict()
    for key, value in network.state_dict().items():
        assert key.startswith("fc.") or torch.equal(loaded[key], value), key
    with pytest.raises(ConfigError, match="does not fit"):
        ENLCheckpointer(model, complete=True).load(path)


WRAPPED = {
    "a plain state": lambda model: model.state_dict(),
    "averaged of compiled": lambda model: AveragedModel(torch.compile(model)).state_dict(),
    "another key": lambda model: {"state_dict": model.state_dict()},
}


@pytest.mark.parametrize("wrapper", WRAPPED)
def test_whatever_a_model_was_wrapped_in_it_is_loaded(slim_cfg, tmp_path, log, wrapper):
    old, model = plain(slim_cfg), plain(slim_cfg)
    path = tmp_path / "wrapped.pth"
    torch.save(WRAPPED[wrapper](old), path)
    ENLCheckpointer(model, complete=True).load(str(path))
    for key, value in old.state_dict().items():
        assert torch.equal(model.state_dict()[key], value), key
    assert said(log, logging.WARNING) == []


def compiled_inside(model):
    model.backbone = torch.compile(model.backbone)
    return model


@pytest.mark.parametrize("wrap", [compiled_inside, torch.compile])
def test_compiled_models_are_saved_and_loaded_by_the_models_own_names(slim_cfg, tmp_path, wrap):
    model, other = plain(slim_cfg), plain(slim_cfg)
    values = {key: value.clone() for key, value in model.state_dict().items()}
    ENLCheckpointer(wrap(model), str(tmp_path)).save("model")
    path = str(tmp_path / "model.pth")
    assert set(read_checkpoint(path)["model"]) == set(values)
    ENLCheckpointer(wrap(other), complete=True).load(path)
    for (key, value), loaded in zip(values.items(), other.state_dict().values()):
        assert torch.equal(loaded, value), key
    # The versions of modules that state_dict() notes are kept.
    assert torch.load(path, weights_only=True)["model"]._metadata[""]


def test_classes_in_another_order_are_said(tmp_path, log):
    ENLCheckpointer(nn.Linear(1, 1), str(tmp_path), class_names=["cat", "dog"]).save("model")
    path = str(tmp_path / "model.pth")
    for others in (["cat", "dog"], ["horse", "cow"], []):  # other names for the same are no matter
        ENLCheckpointer(nn.Linear(1, 1), complete=True, class_names=others).load(path)
        assert not said(log, logging.WARNING)
    ENLCheckpointer(nn.Linear(1, 1), complete=True, class_names=["dog", "cat"]).load(path)
    assert "cat, dog in the checkpoint, dog, cat in the data set" in said(log, logging.WARNING)[0]


def test_what_is_no_model_is_named(tmp_path):
    path = tmp_path / "model.pth"
    for content, said in (
        ({"weight": "one"}, "its 'weight' is a str, not a tensor"),
        ([torch.ones(1)], "it holds a list"),
        ({"model": {"optimizer": {"state": {}}}}, "its 'optimizer' is a dict"),
    ):
        torch.save(content, path)
        with pytest.raises(UnsafeCheckpoint, match=f"model.pth is not a .*checkpoint.*: {said}"):
            ENLCheckpointer(nn.Linear(1, 1)).load(str(path))


@pytest.mark.parametrize("name, said", [("nowhere.pth", "is not there"), ("", "is a folder")])
def test_weights_that_are_not_there_are_named(tmp_path, name, said):
    with pytest.raises(MissingFile, match=f"{tmp_path / name} {said}: MODEL.WEIGHTS .*--resume"):
        ENLCheckpointer(nn.Linear(1, 1)).load(str(tmp_path / name))


OTHER_BLOCKS = [
    ("pth", "BLOCK", "NonLocalBlock", "is NonLocalBlock"),
    ("safetensors", "BLOCK_OPTIONS.position", "none", "position='none'"),
]


@pytest.mark.parametrize("suffix, key, value, words", OTHER_BLOCKS)
def test_the_weights_of_one_kind_of_block_in_another(
    slim_cfg, tmp_path, log, suffix, key, value, words
):
    """They have the same names and shapes, but another meaning."""
    ENLCheckpointer(build_model(slim_cfg), str(tmp_path)).save("enl")
    path = str(tmp_path / f"enl.{suffix}")
    if suffix == "safetensors":
        convert_checkpoint(tmp_path / "enl.pth", path)
    slim_cfg.merge_from_list([f"MODEL.ENL_FPN.{key}", value])
    other = build_model(slim_cfg)
    before = other.backbone.relations["p5"].out.weight.clone()
    with pytest.raises(ConfigError, match="relations.p[345] is ENLBlock.* the model's .*"):
        ENLCheckpointer(other, complete=True).load(path)
    assert torch.equal(other.backbone.relations["p5"].out.weight, before)
    ENLCheckpointer(other).load(path)  # for a training that goes on from there
    assert any("another block" in text and words in text for text in said(log, logging.WARNING))


def test_the_same_blocks_are_no_news(slim_cfg, tmp_path, log):
    slim_cfg.MODEL.ENL_FPN.BOTTOM_UP = "build_non_local_resnet_backbone"
    ENLCheckpointer(build_model(slim_cfg), str(tmp_path)).save("enl")
    kept = read_checkpoint(tmp_path / "enl.pth")["relation_blocks"]
    assert kept["backbone.relations.p5"]["block"] == "ENLBlock"
    assert kept["backbone.bottom_up.res4.non_local"]["affinity_norm"] == "softmax"
    slim_cfg.MODEL.ENL_FPN.BLOCK_OPTIONS.init_std = 0.5  # of which nothing is left
    ENLCheckpointer(build_model(slim_cfg), complete=True).load(str(tmp_path / "enl.pth"))
    assert not said(log, logging.WARNING)
    # A model without them would be another detector.
    ENLCheckpointer(plain(slim_cfg)).load(str(tmp_path / "enl.pth"))
    with pytest.raises(ConfigError, match="lacks 4 relation blocks .* backbone.*MODEL.BACKBONE"):
        ENLCheckpointer(plain(slim_cfg), complete=True).load(str(tmp_path / "enl.pth"))


def test_blocks_under_their_old_names_are_loaded(slim_cfg, tmp_path, log):
    model = build_model(slim_cfg)
    content = {"model": model.state_dict(), "relation_blocks": {}}
    for key in [*content["model"]]:
        old = key.replace("relations.p", "fpn_relation")
        content["model"][old] = content["model"].pop(key)
    stored = model.backbone.relations["p5"].options() | {"block": "ENLBlock"}
    del stored["theta_norm"]  # one that this checkpoint doesn't have yet
    content["relation_blocks"]["backbone.fpn_relation5"] = stored
    torch.save(content, tmp_path / "old.pth")
    other = build_model(slim_cfg)
    ENLCheckpointer(other, complete=True).load(str(tmp_path / "old.pth"))
    for key, value in model.state_dict().items():
        assert torch.equal(other.state_dict()[key], value), key
    assert not said(log, logging.WARNING)
    stored["phi_norm"] = "mean"
    torch.save(content, tmp_path / "other.pth")
    with pytest.raises(ConfigError, match="relations.p5 is ENLBlock.* the model's is"):
        ENLCheckpointer(other, complete=True).load(str(tmp_path / "other.pth"))
