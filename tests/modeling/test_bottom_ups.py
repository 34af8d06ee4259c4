"""ENL_FPN over detectron2's bottom-up networks, and over a third-party one."""

import importlib.util
import sys
import types

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone, build_backbone
from detectron2.modeling.backbone import BasicStem, MViT, RegNet, ResNet, SwinTransformer
from detectron2.modeling.backbone.fpn import LastLevelMaxPool, LastLevelP6P7
from detectron2.modeling.backbone.regnet import ResBottleneckBlock, SimpleStem
from detectron2.modeling.backbone.resnet import BottleneckBlock
from torch import nn

from enl_detectron2.modeling import ENL_FPN

CHANNELS = 16
RES = ("res2", "res3", "res4", "res5")


def resnet():
    stages = [
        ResNet.make_stage(
            BottleneckBlock,
            1,
            in_channels=8 if index == 0 else 8 << index,
            out_channels=16 << index,
            bottleneck_channels=4 << index,
            stride_per_block=[1 if index == 0 else 2],
            num_groups=2,  # ResNeXt
            norm="BN",
        )
        for index in range(4)
    ]
    return ResNet(BasicStem(out_channels=8, norm="BN"), stages, out_features=list(RES))


def regnet():
    return RegNet(
        stem_class=SimpleStem,
        stem_width=8,
        block_class=ResBottleneckBlock,
        depth=8,
        w_a=8,
        w_0=8,
        w_m=2.0,
        group_width=8,
        out_features=["s1", "s2", "s3", "s4"],
    )


def swin():
    return SwinTransformer(embed_dim=8, depths=(1, 1, 1, 1), num_heads=(1,) * 4, drop_path_rate=0.0)


def mvit():
    return MViT(img_size=128, embed_dim=8, depth=4, num_heads=1, last_block_indexes=(0, 1, 2, 3))


BOTTOM_UPS = {
    "ResNet": (resnet, RES),
    "RegNet": (regnet, ("s1", "s2", "s3", "s4")),
    "Swin": (swin, ("p0", "p1", "p2", "p3")),
    "MViT": (mvit, ("scale2", "scale3", "scale4", "scale5")),
}


@pytest.fixture(autouse=True)
def timm_for_mvit(monkeypatch):
    """MViT takes two small layers from timm; without it, two that do the same stand in."""
    if importlib.util.find_spec("timm"):
        return

    class DropPath(nn.Identity):  # at rate 0
        def __init__(self, rate):
            assert rate == 0
            super().__init__()

    class Mlp(nn.Sequential):
        def __init__(self, in_features, hidden_features, out_features, act_layer):
            first, second = (in_features, hidden_features), (hidden_features, out_features)
            super().__init__(nn.Linear(*first), act_layer(), nn.Linear(*second))

    layers = types.ModuleType("timm.models.layers")
    layers.DropPath, layers.Mlp = DropPath, Mlp
    monkeypatch.setitem(sys.modules, "timm", types.ModuleType("timm"))
    monkeypatch.setitem(sys.modules, "timm.models", types.ModuleType("timm.models"))
    monkeypatch.setitem(sys.modules, "timm.models.layers", layers)


class Strided(Backbone):
    """One convolution a feature, at the strides that are asked for."""

    def __init__(self, strides):
        super().__init__()
        self.strides = strides
        self.convs = nn.ModuleDict({n: nn.Conv2d(3, 4, s, stride=s) for n, s in strides.items()})

    def output_shape(self):
        return {name: ShapeSpec(channels=4, stride=s) for name, s in self.strides.items()}

    def forward(self, x):
        return {name: conv(x) for name, conv in self.convs.items()}


@pytest.mark.parametrize("name", BOTTOM_UPS)
def test_every_bottom_up_of_detectron2_carries_the_pyramid_or_any_part_of_it(name):
    build, features = BOTTOM_UPS[name]
    bottom_up, images = build(), torch.randn(1, 3, 128, 128)
    fpn = ENL_FPN(bottom_up, features, CHANNELS, top_block=LastLevelMaxPool())
    outputs = fpn(images)
    sizes = {name: tuple(output.shape[1:]) for name, output in outputs.items()}
    assert sizes == {f"p{k}": (CHANNELS, 128 >> k, 128 >> k) for k in range(2, 7)}
    sum(output.square().sum() for output in outputs.values()).backward()
    # As in the papers, whatever the features are called: strides 8, 16 and 32.
    assert {n.split(".")[1] for n in fpn.state_dict() if "relation" in n} == {"p3", "p4", "p5"}
    for parameter in fpn.relations.parameters():
        assert torch.isfinite(parameter.grad).all()
    assert any(parameter.grad.abs().sum() > 0 for parameter in bottom_up.parameters())

    # Swin's own p3 is at stride 32, and must not be taken for this pyramid's, at stride 8.
    outputs = ENL_FPN(bottom_up, features[:2], CHANNELS, top_block=LastLevelMaxPool())(images)
    assert list(outputs) == ["p2", "p3", "p4"]
    assert torch.equal(outputs["p4"], outputs["p3"][:, :, ::2, ::2])
    coarsest = bottom_up.output_shape()[features[3]].channels
    top_block = LastLevelP6P7(coarsest, CHANNELS, in_feature=features[3])
    outputs = ENL_FPN(bottom_up, features[1:], CHANNELS, top_block=top_block)(images)
    sizes = {name: output.shape[2] for name, output in outputs.items()}
    assert sizes == {f"p{k}": 128 >> k for k in range(3, 8)}


@pytest.mark.parametrize(
    "strides, features, levels",
    [
        ({"a": 2, "b": 4, "c": 8}, ["a", "b", "c"], ["p1", "p2", "p3", "p4"]),
        ({"x": 16, "y": 32}, ["x", "y"], ["p4", "p5", "p6"]),
        ({"only": 8}, ["only"], ["p3", "p4"]),
    ],
)
def test_other_strides_work(strides, features, levels):
    fpn = ENL_FPN(Strided(strides), features, CHANNELS, top_block=LastLevelMaxPool())
    assert list(fpn(torch.randn(1, 3, 64, 64))) == levels


@pytest.mark.parametrize(
    "strides, features",
    [
        ({"a": 4, "b": 16}, ["a", "b"]),
        ({"a": 4, "b": 8}, ["b", "a"]),
        ({"a": 4, "b": 4}, ["a", "b"]),
        ({"a": 6, "b": 12}, ["a", "b"]),
        ({"a": 4}, []),
    ],
)
def test_strides_that_make_no_pyramid_are_named(strides, features):
    found = ", ".join(f"{name} at {strides[name]}" for name in features) or "none"
    with pytest.raises(ValueError, match=rf"in_features .* powers of 2.* got {found}"):
        ENL_FPN(Strided(strides), features, CHANNELS)


def test_what_does_not_fit_is_named():
    with pytest.raises(
        ValueError, match="top_block.in_feature names res5, but only s1, .* p3, p4, p5 can"
    ):
        ENL_FPN(regnet(), ["s2", "s3", "s4"], CHANNELS, top_block=LastLevelP6P7(8, CHANNELS))
    with pytest.raises(ValueError, match="bottom_up must be a detectron2 Backbone, got a Linear"):
        ENL_FPN(nn.Linear(1, 1), ["res5"], CHANNELS)


def test_a_strangers_network(slim_cfg, monkeypatch):
    def build_strided(cfg, input_shape):
        return Strided({"fine": 8, "coarse": 16})

    monkeypatch.setitem(BACKBONE_REGISTRY._obj_map, "build_strided", build_strided)
    slim_cfg.MODEL.ENL_FPN.BOTTOM_UP = "build_strided"
    slim_cfg.MODEL.FPN.IN_FEATURES = ["fine", "coarse"]
    slim_cfg.MODEL.ENL_FPN.BLOCK_FEATURES = ["fine", "coarse"]
    outputs = build_backbone(slim_cfg)(torch.randn(1, 3, 64, 96))
    sizes = {name: tuple(output.shape[1:]) for name, output in outputs.items()}
    assert sizes == {"p3": (16, 8, 12), "p4": (16, 4, 6), "p5": (16, 2, 3)}
    slim_cfg.MODEL.FPN.IN_FEATURES = ["res2", "res3"]
    with pytest.raises(ValueError, match="names res2, res3, but only fine, coarse can be used"):
        build_backbone(slim_cfg)
