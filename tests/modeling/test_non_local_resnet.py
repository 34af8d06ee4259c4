import pickle

import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import LazyCall as L
from detectron2.config import instantiate
from detectron2.modeling import ResNet, build_backbone
from detectron2.modeling.backbone import BasicStem
from torch import nn

from enl_detectron2.modeling import NonLocalResNet


@pytest.fixture
def cfg(slim_cfg):
    slim_cfg.MODEL.BACKBONE.NAME = "build_non_local_resnet_backbone"
    slim_cfg.MODEL.RESNETS.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
    return slim_cfg


def build(cfg, name="build_non_local_resnet_backbone"):
    cfg.MODEL.BACKBONE.NAME = name
    torch.manual_seed(0)
    return build_backbone(cfg).eval()


@pytest.mark.parametrize(
    "depth, groups, stage", [(18, 1, "res2"), (50, 2, "res5"), (50, 1, "res4")]
)
def test_the_block_stands_right_before_the_last_residual_block(cfg, depth, groups, stage):
    cfg.MODEL.RESNETS.DEPTH = depth
    cfg.MODEL.RESNETS.NUM_GROUPS = groups
    if depth < 50:
        cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 64
    cfg.MODEL.NON_LOCAL_RESNET.STAGE = stage
    plain = list(dict(getattr(build(cfg, "build_resnet_backbone"), stage).named_children()))
    blocks = dict(getattr(build(cfg), stage).named_children())
    assert list(blocks) == [*plain[:-1], "non_local", plain[-1]]
    assert blocks["non_local"].theta.in_channels == blocks[plain[-1]].in_channels


@torch.no_grad()
def test_starting_as_the_identity_it_is_the_plain_resnet(cfg):
    resnet, plain = build(cfg), build(cfg, "build_resnet_backbone")
    resnet.load_state_dict(plain.state_dict(), strict=False)
    images = torch.randn(2, 3, 64, 96)
    expected = plain(images)
    different = resnet(images)
    assert torch.equal(different["res3"], expected["res3"])
    assert not torch.equal(different["res4"], expected["res4"])
    cfg.MODEL.NON_LOCAL_RESNET.ZERO_INIT_RESIDUAL = True
    resnet = build(cfg)
    resnet.load_state_dict(plain.state_dict(), strict=False)
    for name, features in resnet(images).items():
        assert torch.equal(features, expected[name])


def new_keys(prefix):
    names = ("theta", "phi", "g", "out")
    return {
        f"{prefix}res4.non_local.{name}.{kind}" for name in names for kind in ("weight", "bias")
    }


def caffe2_name(name):
    """A ResNet's parameter as detectron2's ImageNet weights name it: res4_5_branch2a_bn_s."""
    branches = {"conv1": "2a", "conv2": "2b", "conv3": "2c", "shortcut": "1"}
    parts = name.split(".")
    suffix = {"weight": "_bn_s", "bias": "_bn_b"}[parts[-1]] if "norm" in parts else "_w"
    if parts[0] == "stem":
        return "res_conv1" + suffix if "norm" in parts else "conv1" + suffix
    return f"{parts[0]}_{parts[1]}_branch{branches[parts[2]]}{suffix}"


def test_an_imagenet_checkpoint_fits(cfg, tmp_path):
    plain = build(cfg, "build_resnet_backbone")
    learnt = dict(plain.named_parameters())
    for parameter in learnt.values():
        nn.init.normal_(parameter)
    arrays = {caffe2_name(name): p.detach().numpy() for name, p in learnt.items()}
    content = {"model": arrays, "__author__": "Caffe2", "matching_heuristics": True}
    (tmp_path / "R-50.pkl").write_bytes(pickle.dumps(content))
    resnet = build(cfg)
    DetectionCheckpointer(resnet).load(str(tmp_path / "R-50.pkl"))
    assert set(resnet.state_dict()) - set(plain.state_dict()) == new_keys("")
    for name, value in learnt.items():
        assert torch.equal(resnet.get_parameter(name), value), name


@pytest.mark.parametrize("freeze_at", [0, 3, 5])
def test_it_is_frozen_as_a_resnet_is_but_for_its_block(cfg, freeze_at):
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    resnet, plain = build(cfg), build(cfg, "build_resnet_backbone")
    assert resnet.freeze(freeze_at) is resnet
    plain.freeze(freeze_at)
    expected = {name: parameter.requires_grad for name, parameter in plain.named_parameters()}
    expected |= dict.fromkeys(new_keys(""), True)
    cfg.MODEL.BACKBONE.FREEZE_AT = freeze_at
    for model in (resnet, build(cfg)):
        found = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
        assert found == expected


def test_a_wrong_key_is_named_with_what_may_be(cfg):
    cfg.MODEL.NON_LOCAL_RESNET.BLOCK_OPTIONS.affinity_norm = "none"
    with pytest.raises(ValueError, match="affinity_norm must be .*'softmax', 'mean'"):
        build(cfg)
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res2", "res3"]
    with pytest.raises(ValueError, match="stage must be one of 'res2', 'res3'.* got 'res4'"):
        build(cfg)


def by_hand(**options):
    stages = ResNet.make_default_stages(18, norm="BN")
    return NonLocalResNet(BasicStem(norm="BN"), stages, out_features=["res5"], **options)


def test_it_can_be_constructed_as_a_lazy_config_does():
    resnet = instantiate(L(by_hand)(stage="res3", block_options={"position": "cos_add"}))
    assert resnet.res3.non_local.position == "cos_add"
    assert resnet(torch.randn(1, 3, 64, 64))["res5"].shape == (1, 512, 2, 2)
    with pytest.raises(ValueError, match="NonLocalBlock has no option 'phi_norm'"):
        by_hand(block_options={"phi_norm": "mean"})
