"""ENL_FPN over detectron2's bottom-up networks."""

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import Backbone
from detectron2.modeling.backbone import BasicStem, RegNet, ResNet, SwinTransformer
from detectron2.modeling.backbone.fpn import LastLevelMaxPool, LastLevelP6P7
from detectron2.modeling.backbone.regnet import ResBottleneckBlock, SimpleStem
from torch import nn

from enl_detectron2.modeling import ENL_FPN

CHANNELS = 16
RES = ("res2", "res3", "res4", "res5")


def resnet():
    stages = ResNet.make_default_stages(18, norm="BN")
    return ResNet(BasicStem(norm="BN"), stages, out_features=list(RES))


def regnet():
    options = {"stem_width": 8, "depth": 8, "w_a": 8, "w_0": 8, "w_m": 2.0, "group_width": 8}
    options["out_features"] = ["s1", "s2", "s3", "s4"]
    return RegNet(stem_class=SimpleStem, block_class=ResBottleneckBlock, **options)


def swin():
    return SwinTransformer(embed_dim=8, depths=(1, 1, 1, 1), num_heads=(1,) * 4, drop_path_rate=0.0)


BOTTOM_UPS = {
    "ResNet": (resnet, RES),
    "RegNet": (regnet, ("s1", "s2", "s3", "s4")),
    "Swin": (swin, ("p0", "p1", "p2", "p3")),
}


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


@pytest.mark.parametrize("strides", [{"a": 4, "b": 16}, {"b": 8, "a": 4}, {"a": 6, "b": 12}, {}])
def test_strides_that_make_no_pyramid_are_named(strides):
    found = ", ".join(f"{name} at {stride}" for name, stride in strides.items()) or "none"
    with pytest.raises(ValueError, match=rf"in_features .* powers of 2.* got {found}"):
        ENL_FPN(Strided(strides), list(strides), CHANNELS)
    other = ENL_FPN(Strided({"x": 16, "y": 32}), ["x", "y"], CHANNELS)
    assert list(other(torch.randn(1, 3, 64, 64))) == ["p4", "p5"]


def test_what_does_not_fit_is_named():
    with pytest.raises(
        ValueError, match="top_block.in_feature names res5, but only s1, .* p3, p4, p5 can"
    ):
        ENL_FPN(regnet(), ["s2", "s3", "s4"], CHANNELS, top_block=LastLevelP6P7(8, CHANNELS))
    with pytest.raises(ValueError, match="bottom_up must be a detectron2 Backbone, got a Linear"):
        ENL_FPN(nn.Linear(1, 1), ["res5"], CHANNELS)
