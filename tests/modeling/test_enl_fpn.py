import pytest
import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, get_cfg
from detectron2.layers import FrozenBatchNorm2d, ShapeSpec
from detectron2.modeling import build_backbone
from detectron2.modeling.backbone import Backbone
from torch import nn

from enl_detectron2 import add_enl_config, add_training_config
from enl_detectron2.layers import MapBlock, RelationBlock
from enl_detectron2.modeling import ENL_FPN, RELATION_BLOCK_REGISTRY

IMAGE = (2, 3, 128, 192)


class Maps(Backbone):
    """A bottom-up network that hands over the maps it is given: one channel, strides 4 to 32."""

    def output_shape(self):
        return {f"res{k}": ShapeSpec(channels=1, stride=2**k) for k in range(2, 6)}

    def forward(self, maps):
        return maps


def build(cfg, name="ENL_FPN", **keys):
    """The backbone ``name``, with keys of MODEL.ENL_FPN, always from the same random numbers."""
    cfg = cfg.clone()
    cfg.MODEL.BACKBONE.NAME = name
    for key, value in keys.items():
        node = cfg.MODEL.ENL_FPN
        node = node.BLOCK_OPTIONS if key in node.BLOCK_OPTIONS else node
        node[key] = value
    torch.manual_seed(0)
    return build_backbone(cfg).eval()


def levels_with_blocks(fpn):
    return {name.split(".")[1] for name in fpn.state_dict() if "relation" in name}


def assert_same_outputs(backbone, reference):
    """Bit for bit, in order, on the same weights."""
    backbone.load_state_dict(reference.state_dict(), strict=False)
    images = torch.randn(IMAGE)
    outputs, expected = backbone(images), reference(images)
    assert list(outputs) == list(expected)
    for name in expected:
        assert torch.equal(outputs[name], expected[name]), name


@pytest.mark.parametrize(
    "reference, top_block, fuse_type",
    [
        ("build_resnet_fpn_backbone", "LastLevelMaxPool", "sum"),
        ("build_retinanet_resnet_fpn_backbone", "LastLevelP6P7", "avg"),
    ],
)
@torch.no_grad()
def test_without_a_block_or_with_identities_it_is_detectron2s_fpn(
    slim_cfg, reference, top_block, fuse_type
):
    slim_cfg.MODEL.FPN.FUSE_TYPE = fuse_type
    plain = build(slim_cfg, BLOCK="", TOP_BLOCK=top_block)
    detectron2_fpn = build(slim_cfg, reference)
    assert plain.state_dict().keys() == detectron2_fpn.state_dict().keys()
    assert plain.output_shape() == detectron2_fpn.output_shape()
    assert_same_outputs(plain, detectron2_fpn)
    for block in ("ENLBlock", "NonLocalBlock", "Conv5x5Block"):
        keys = {"BLOCK": block, "TOP_BLOCK": top_block}
        identity = build(slim_cfg, ZERO_INIT_RESIDUAL=True, **keys)
        assert_same_outputs(identity, plain)
        with torch.enable_grad():  # which learns
            sum(level.sum() for level in identity(torch.randn(IMAGE)).values()).backward()
        assert any(parameter.grad.any() for parameter in identity.relations.parameters())
        with pytest.raises(AssertionError, match="p2"):
            assert_same_outputs(build(slim_cfg, **keys), plain)
        by_lazy_config = ENL_FPN(Maps(), ["res5"], 16, block=block).relations.p5.options()
        assert build(slim_cfg, BLOCK=block).relations.p5.options() == by_lazy_config


def test_any_levels_have_blocks_and_by_default_those_at_strides_of_8_and_more(slim_cfg):
    for features in (["res2", "res3", "res4", "res5"], ["res2"]):
        backbone = build(slim_cfg, BLOCK_FEATURES=features)
        assert list(backbone.relations) == ["p5", "p4", "p3", "p2"]  # each level has an entry
        assert levels_with_blocks(backbone) == {f"p{feature[-1]}" for feature in features}
        assert backbone(torch.randn(IMAGE))["p2"].shape == (2, 16, 32, 48)
    by_lazy_config = ENL_FPN(Maps(), ["res2", "res3", "res4", "res5"], 8, block_features=[])
    for fpn in (build(slim_cfg, BLOCK_FEATURES=[]), by_lazy_config):
        assert levels_with_blocks(fpn) == {"p3", "p4", "p5"}
    with pytest.raises(ValueError, match="block_features must name the levels .* none of res2 is"):
        ENL_FPN(Maps(), ["res2"], 8)
    ENL_FPN(Maps(), ["res2"], 8, block="")  # which has none to place


def test_options_reach_every_block(slim_cfg):
    cfg = slim_cfg.clone()
    cfg.MODEL.ENL_FPN.BLOCK_OPTIONS.position_options.scale = 7.0
    backbone = build(cfg, phi_norm="mean", theta_norm="tanh", position="l1_add")
    for level in ("p3", "p4", "p5"):
        block = backbone.relations[level]
        assert (block.phi_norm, block.theta_norm) == ("mean", "tanh")
        assert block.position_options == {"scale": 7.0}
    assert build(cfg).relations.p5.position_options == {"num_frequencies": 9}  # the default's own
    for kind, layer in (("ENLBlock", "theta"), ("NonLocalBlock", "phi"), ("Conv5x5Block", "conv")):
        block = build(slim_cfg, BLOCK=kind, init_std=5.0).relations.p5
        assert getattr(block, layer).weight.std().item() > 4


class Gain(nn.Module):
    """A project's own block, with an option of its own."""

    def __init__(self, channels, *, gain=1.0):
        super().__init__()
        self.gain = gain

    def forward(self, x):
        return self.gain * x


@pytest.fixture
def with_gain(monkeypatch):
    monkeypatch.setitem(RELATION_BLOCK_REGISTRY._obj_map, "Gain", Gain)


def test_a_projects_own_block_has_its_own_options(slim_cfg, with_gain, tmp_path):
    file = tmp_path / "gain.yaml"
    file.write_text("MODEL: {ENL_FPN: {BLOCK: Gain, BLOCK_OPTIONS: {gain: 3.0}}}")
    slim_cfg.merge_from_file(str(file))
    assert build(slim_cfg).relations.p5.module.gain == 3.0
    with pytest.raises(ValueError, match="zero_init_residual needs a RelationBlock, and Gain is"):
        build(slim_cfg, ZERO_INIT_RESIDUAL=True)
    # A block that is registered before add_enl_config has its options on the command line, too.
    cfg = get_cfg()
    add_enl_config(cfg)
    cfg.merge_from_list(["MODEL.ENL_FPN.BLOCK", "Gain", "MODEL.ENL_FPN.BLOCK_OPTIONS.gain", "2.5"])
    assert cfg.MODEL.ENL_FPN.BLOCK_OPTIONS.gain == 2.5


@torch.no_grad()
def test_blocks_act_before_the_output_convolution_and_the_interpolation(with_gain):
    keys = {"block": "Gain", "block_options": {"gain": 2.0}, "attend_to_padding": True}
    fpn = ENL_FPN(Maps(), ["res3", "res4", "res5"], 8, **keys)
    maps = {f"res{k}": torch.randn(1, 1, 4 << (5 - k), 6 << (5 - k)) for k in range(2, 6)}
    refined5 = 2 * fpn.fpn_lateral5(maps["res5"])
    refined4 = 2 * (fpn.fpn_lateral4(maps["res4"]) + F.interpolate(refined5, scale_factor=2.0))
    refined3 = 2 * (fpn.fpn_lateral3(maps["res3"]) + F.interpolate(refined4, scale_factor=2.0))
    outputs = fpn(maps)
    assert torch.equal(outputs["p5"], fpn.fpn_output5(refined5))
    assert torch.equal(outputs["p4"], fpn.fpn_output4(refined4))
    assert torch.equal(outputs["p3"], fpn.fpn_output3(refined3))


@pytest.mark.parametrize(
    "keys, message",
    [
        ({"BLOCK": "NonLocul"}, "block must be one of .*ENLBlock.* got 'NonLocul'; .*--import"),
        ({"BLOCK_FEATURES": ["res3", "res7"]}, "block_features names res7, but only res2"),
        ({"BOTTOM_UP": "resnet"}, "bottom_up must be one of .*build_resnet_backbone.*--import"),
        ({"TOP_BLOCK": "maxpool"}, "top_block must be one of 'LastLevelMaxPool'"),
        ({"phi_norm": "sum"}, "phi_norm must be one of 'softmax', 'mean', 'none', got 'sum'"),
        (
            {"position": "l1_add", "position_options": CfgNode({"scale": -1.0})},
            "of l1: scale must be a number above 0",
        ),
        (
            {"affinity_norm": "mean"},
            "block_options holds .* ENLBlock has no option 'affinity_norm'",
        ),
        (
            {"TOP_BLOCK": "LastLevelP6P7", "TOP_BLOCK_IN_FEATURE": "p9"},
            "top_block.in_feature names p9, but only",
        ),
    ],
)
def test_a_wrong_key_is_named_by_its_argument(slim_cfg, keys, message):
    with pytest.raises(ValueError, match=message):
        build(slim_cfg, **keys)


def test_features_that_are_not_there_are_named(slim_cfg):
    slim_cfg.MODEL.FPN.IN_FEATURES = ["res2", "res6"]
    with pytest.raises(ValueError, match="in_features.* names res6, but only res2, res3"):
        build(slim_cfg)
    slim_cfg.MODEL.META_ARCHITECTURE = "RetinaNet"  # which asks for p7
    slim_cfg.MODEL.FPN.IN_FEATURES = ["res3", "res4", "res5"]
    with pytest.raises(ValueError, match="top_block must be 'LastLevelP6P7' .* names p7"):
        build(slim_cfg)


def test_a_block_keeps_its_options(monkeypatch):
    class Forgetful(RelationBlock):
        def __init__(self, channels, *, gain=1.0):
            super().__init__()

    monkeypatch.setitem(RELATION_BLOCK_REGISTRY._obj_map, "Forgetful", Forgetful)
    with pytest.raises(TypeError, match="Forgetful must keep its option gain as self.gain"):
        ENL_FPN(Maps(), ["res5"], 8, block="Forgetful")


@torch.no_grad()
def test_a_block_may_be_replaced_wrapped_or_traced(slim_cfg):
    images = torch.randn(IMAGE)
    backbone = build(slim_cfg)
    before = backbone(images)
    plain = build(slim_cfg, BLOCK_FEATURES=["res3", "res4"])
    plain.load_state_dict(backbone.state_dict(), strict=False)
    block, calls = backbone.relations["p5"], []
    backbone.relations["p5"] = MapBlock(nn.Identity())
    assert torch.equal(backbone(images)["p2"], plain(images)["p2"])

    class Wrapper(nn.Module):
        def __init__(self, block):
            super().__init__()
            self.block = block

        def forward(self, *args):
            calls.append(args)
            return self.block(*args)

    example = (torch.randn(2, 16, 4, 6), torch.tensor([[4, 6], [2, 5]]))
    traced = torch.jit.trace(block.eval(), example)
    for other in (Wrapper(block), traced, torch.jit.freeze(traced)):
        backbone.relations["p5"] = other
        for name, output in backbone(images).items():
            assert torch.allclose(output, before[name], atol=1e-5), name
    assert len(calls) == 1 and calls[0][1] is not None  # the extent
    with pytest.warns(UserWarning, match="Sequential takes the map alone"):
        MapBlock(nn.Sequential(block))


def test_weights_of_before_load_by_their_old_names(slim_cfg, caplog):
    backbone, other = build(slim_cfg), build(slim_cfg)
    nn.init.ones_(backbone.relations["p4"].theta.weight)
    state = {f"backbone.{name}": value for name, value in backbone.state_dict().items()}
    old = {name.replace("relations.p", "fpn_relation"): value for name, value in state.items()}
    caplog.set_level("INFO")
    nn.ModuleDict({"backbone": other}).load_state_dict(old)
    assert torch.equal(other.relations["p4"].theta.weight, backbone.relations["p4"].theta.weight)
    assert caplog.text.count("Renamed 24 weights of blocks") == 1


@pytest.mark.parametrize("zero_init", [False, True])
def test_a_trunk_of_random_weights_is_warned_of_once_at_the_first_step(slim_cfg, caplog, zero_init):
    slim_cfg.MODEL.RESNETS.NORM = "FrozenBN"
    backbone, pretrained = build(slim_cfg, ZERO_INIT_RESIDUAL=zero_init), build(slim_cfg).train()
    next(m for m in pretrained.modules() if isinstance(m, FrozenBatchNorm2d)).running_mean += 1
    pretrained(torch.randn(IMAGE))
    backbone(torch.randn(IMAGE))
    assert "frozen batch norms" not in caplog.text  # at inference
    for _ in range(2):
        backbone.train()(torch.randn(IMAGE))
    assert caplog.text.count("frozen batch norms") == (not zero_init)


def test_borders_that_pass_for_padding_are_warned_of(slim_cfg, caplog):
    images = torch.randn(IMAGE)
    images[0, :, 90:] = 0  # which the other image explains
    images[:, :, :, 180:] = 0  # 12 columns, which padding to a multiple of 32 explains
    build(slim_cfg)(images)
    assert "of zeros" not in caplog.text
    images[:, :, :, 150:] = 0
    backbone = build(slim_cfg)
    for _ in range(2):
        backbone(images)
    assert caplog.text.count("ends in 42 rows or columns of zeros") == 1


def test_a_subclass_of_cfg_node_takes_the_keys(tmp_path):
    class OwnNode(CfgNode):  # as D2Go's; merging compares the nodes' types
        pass

    cfg = OwnNode({"VERSION": 2, "MODEL": {}})
    add_enl_config(cfg)
    (tmp_path / "own.yaml").write_text("MODEL: {ENL_FPN: {BLOCK_OPTIONS: {init_std: 0.5}}}")
    cfg.merge_from_file(str(tmp_path / "own.yaml"))
    assert cfg.MODEL.ENL_FPN.BLOCK_OPTIONS.init_std == 0.5


@pytest.mark.parametrize("name", ["ENL_FPN", "build_non_local_resnet_backbone"])
def test_a_configuration_without_the_keys_names_what_adds_them(name):
    cfg = get_cfg()
    cfg.MODEL.BACKBONE.NAME = name
    with pytest.raises(ValueError, match=r"call enl_detectron2.add_enl_config\(cfg\) before"):
        build_backbone(cfg)


def test_keys_that_are_there_stay(slim_cfg):
    cfg = get_cfg()
    cfg.SOLVER.OPTIMIZER = "ADAMW"
    cfg.MODEL.ENL_FPN = CfgNode({"BLOCK": "Conv5x5Block", "BLOCK_OPTIONS": {"init_std": 0.5}})
    add_enl_config(cfg)
    add_training_config(cfg)
    assert cfg.SOLVER.OPTIMIZER == "ADAMW"
    node = cfg.MODEL.ENL_FPN
    assert (node.BLOCK, node.BLOCK_OPTIONS.init_std) == ("Conv5x5Block", 0.5)
    assert node.TOP_BLOCK == "LastLevelMaxPool"
    plain = get_cfg()
    add_enl_config(plain)
    assert {key for key in plain if plain[key] != get_cfg()[key]} == {"MODEL"}


@pytest.mark.parametrize("source, channels", [("", 128), ("res5", 128), ("p5", 16)])
def test_the_top_block_reads_what_its_key_names(slim_cfg, source, channels):
    backbone = build(slim_cfg, TOP_BLOCK="LastLevelP6P7", TOP_BLOCK_IN_FEATURE=source)
    assert backbone.top_block.p6.in_channels == channels
    outputs = backbone(torch.randn(IMAGE))
    assert list(outputs) == ["p2", "p3", "p4", "p5", "p6", "p7"]
    if source == "p5":
        assert torch.equal(outputs["p6"], backbone.top_block.p6(outputs["p5"]))
