import json
import os
from pathlib import Path

import fvcore.nn
import pytest
import torch
import torch.nn.functional as F
from detectron2.modeling import build_model
from detectron2.utils.analysis import FlopCountAnalysis, flop_count_operators
from torch import nn

from enl_detectron2.analysis.cost.measurement import Measurement, measure
from enl_detectron2.analysis.cost.multiply_adds import (
    HANDLES,
    PARTS,
    count_by_module,
    count_multiply_adds,
)
from enl_detectron2.analysis.cost.random_model import (
    build_random_model,
    fixed_regions,
    random_image,
)
from enl_detectron2.analysis.cost.report import (
    Cost,
    PapersCost,
    analyze,
    count_parameters,
    format_costs,
    papers_cost,
)
from enl_detectron2.layers import Conv5x5Block, ENLBlock, MapBlock, NonLocalBlock
from enl_detectron2.modeling import relation_blocks
from enl_detectron2.training.config import load_config

ROOT = Path(__file__).parents[3]
CONFIGS = ROOT / "configs"
TOOL = ROOT / "tools/analyze_cost.py"

IMAGE_SIZE = (120, 150)  # padded to 128 × 160
# An image of 800 × 1066, padded to 800 × 1088, at strides 8, 16 and 32.
PAPERS_MAPS = [(100, 136), (50, 68), (25, 34)]

# Table 3 of the BMVC paper: trainable parameters as in shared detectron2 models, and its row.
PAPERS_SYSTEMS = {
    "rcnn_R50": (41_477_536, PapersCost("baseline", 90.20, 1350, 41.48)),
    "nl_bu_rcnn_R50": (43_577_248, PapersCost("+1NL, BU", 106.92, 1358, 43.58)),
    "enl_rcnn_R50": (41_872_672, PapersCost("+3ENL, TD", 93.87, 1426, 41.88)),
    "nl_rcnn_R50": (41_872_672, PapersCost("+3NL, TD", 146.85, 7476, 41.88)),
}


def shape_only(name, *opts):
    """The full-width model of a configuration, without memory for its parameters."""
    with torch.device("meta"):
        cfg = load_config(str(CONFIGS / f"{name}.yaml"), opts)
        return build_random_model(cfg, "meta")


class Call(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def count(function, *shape):
    return count_by_module(Call(function), torch.ones(shape))[""]


def total_of_block(block, *maps):
    channels = block.out.out_channels
    return sum(count_by_module(block, torch.zeros(1, channels, *map_))[""] for map_ in maps)


# ---- parameters


@pytest.mark.parametrize("name", PAPERS_SYSTEMS)
def test_trainable_parameters_are_the_papers(name):
    model = shape_only(name)
    trainable, papers = PAPERS_SYSTEMS[name]
    assert count_parameters(model, trainable=True) == trainable
    assert trainable / 1e6 == pytest.approx(papers.parameters, abs=0.01)
    frozen = 9_408 + 212_992  # the stem's convolution and res2's
    assert count_parameters(model) == trainable + frozen


# ---- operations


@pytest.mark.parametrize(
    "function, shape, expected",
    [
        # By rules of ours.
        (
            lambda x: torch.ones(2, 3, 5).baddbmm_(x, torch.ones(2, 4, 5)),
            (2, 3, 4),
            2 * 3 * 4 * 5,
        ),
        (
            lambda x: F.scaled_dot_product_attention(
                x, torch.ones(2, 1, 5, 4), torch.ones(2, 1, 5, 6)
            ),
            (2, 1, 3, 4),
            2 * 3 * 5 * (4 + 6),
        ),
        # By fvcore's.
        (lambda x: torch.ones(2, 5, 3, 4) @ x, (2, 5, 4, 6), 2 * 5 * 3 * 4 * 6),
        (lambda x: x @ torch.ones(6, 3), (2, 5, 4, 6), 2 * 5 * 4 * 6 * 3),
        (lambda x: torch.mm(x, torch.ones(4, 5)), (3, 4), 3 * 4 * 5),
        (lambda x: torch.bmm(x, torch.ones(2, 4, 5)), (2, 3, 4), 2 * 3 * 4 * 5),
        (lambda x: torch.addmm(torch.ones(5), x, torch.ones(4, 5)), (3, 4), 3 * 4 * 5),
        (lambda x: F.linear(x, torch.ones(7, 4)), (2, 3, 4), 2 * 3 * 4 * 7),
        (lambda x: F.conv2d(x, torch.ones(6, 2, 3, 3), groups=2), (1, 4, 7, 8), 6 * 2 * 9 * 5 * 6),
        (lambda x: F.conv_transpose2d(x, torch.ones(4, 3, 2, 2), stride=2), (1, 4, 5, 6), 48 * 30),
        (lambda x: F.relu6(nn.ReLU6()(x * x + 1)).softmax(dim=1).sqrt().tanh(), (3, 4), 0),
    ],
)
def test_multiply_adds_of_one_operation(function, shape, expected):
    assert count(function, *shape) == expected


def test_what_has_no_rule_is_named(caplog):
    assert count(lambda x: (x @ x).cumsum(dim=0), 4, 4) == 4**3
    assert "aten::cumsum" in caplog.text


@pytest.mark.parametrize(
    "operation, function",
    [
        ("aten::baddbmm_", lambda x: (x + 1).baddbmm_(x, x)),
        (
            "aten::scaled_dot_product_attention",
            lambda x: F.scaled_dot_product_attention(x, x, x),
        ),
    ],
)
def test_there_are_rules_for_what_fvcore_does_not_know_only(operation, function):
    """If one of these fails, fvcore has learnt it, and the rule can go."""
    module, x = Call(function), torch.ones(2, 4, 4)
    analysis = fvcore.nn.FlopCountAnalysis(module, x).unsupported_ops_warnings(False)
    assert analysis.total() < count_by_module(module, x)[""]
    assert operation in analysis.unsupported_ops()
    assert operation in HANDLES and len(HANDLES) == 2


# ---- relation blocks


def tokens_formula(block, height, width, rest):
    """What the ENL block multiplies and adds: spreading makes lines along ``rest`` cells first."""
    channels, inner = block.out.out_channels, block.inner_channels
    positions, count = height * width, block.position_term.num_frequencies
    tokens = inner + count**2 + 0.5  # the half is a token for out's bias, which g doesn't see
    on_the_map = 4 * positions * channels * inner  # θ, φ, x φ̂ᵀ and the last product
    on_tokens = 2 * tokens * channels * inner  # g and out
    # Down along the width, then along the height; and back, of a channels-last map as it came.
    pooling = 2 * positions * count + count * (height + rest) * count
    return on_the_map + on_tokens + channels * pooling


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_enl_costs_less_than_the_papers_formula(memory_format):
    def formula(height, width, channels=256, inner=128, frequencies=9):
        positions = height * width
        projections = 4 * positions * channels * inner
        products = 2 * positions * inner**2
        # Êᵀ g along the height, then along the width; and back.
        along_height = positions * inner * frequencies
        along_width = frequencies * width * inner * frequencies
        return projections + products + 2 * (along_height + along_width)

    block = ENLBlock(256)
    total = 0
    for map_ in PAPERS_MAPS:
        x = torch.zeros(1, 256, *map_).to(memory_format=memory_format)
        counted = count_by_module(block, x)[""]
        rest = map_[0] if memory_format == torch.contiguous_format else map_[1]
        assert counted == pytest.approx(tokens_formula(block, *map_, rest), rel=0.001)
        total += counted
    assert sum(formula(*map_) for map_ in PAPERS_MAPS) == pytest.approx(2.97e9, rel=0.002)
    assert total == pytest.approx(2.47e9, rel=0.002)


@pytest.mark.parametrize(
    "block", [ENLBlock(16), NonLocalBlock(16), NonLocalBlock(16, affinity_norm="mean")]
)
def test_fvcore_itself_counts_a_block(block):
    x = torch.zeros(1, 16, 12, 20)
    bare = fvcore.nn.FlopCountAnalysis(block, x).unsupported_ops_warnings(False)
    counts = count_by_module(block, x)
    for name in ("theta", "phi", "g", "out"):  # each is called as a module
        assert bare.by_module()[name] == counts[name] > 0
    if isinstance(block, ENLBlock):  # without a rule it lacks one of ten products, K to D
        last = 16 * 12 * 20 * block.position_term.num_frequencies
        assert bare.total() == counts[""] - last
    assert bare.set_op_handle(**HANDLES).total() == counts[""]


@pytest.mark.parametrize(
    "channels, maps, giga", [(1024, [(50, 68)], 18.97), (256, PAPERS_MAPS, 52.8)]
)
def test_non_local_costs_what_the_formula_says(channels, maps, giga):
    inner = channels // 2
    sizes = [height * width for height, width in maps]
    expected = sum(4 * n * channels * inner + 2 * n**2 * inner for n in sizes)
    assert expected == pytest.approx(giga * 1e9, rel=0.001)
    assert total_of_block(NonLocalBlock(channels), *maps) == pytest.approx(expected, rel=0.01)


def test_forms_of_the_affinity_cost_the_same():
    fused = total_of_block(NonLocalBlock(16), (8, 10))
    explicit = total_of_block(NonLocalBlock(16, affinity_norm="mean"), (8, 10))
    assert fused == explicit


# ---- whole models


def slim_parts(cfg, **keys):
    """The model of a slim configuration with keys of MODEL.ENL_FPN, and its parts' cost."""
    cfg = cfg.clone()
    for key, value in keys.items():
        cfg.MODEL.ENL_FPN[key] = value
    model = build_random_model(cfg, "cpu")
    return model, count_multiply_adds(model, IMAGE_SIZE)


@pytest.mark.parametrize(
    "keys, maps",
    [
        ({"BLOCK": "ENLBlock"}, [(4, 5), (8, 10), (16, 20)]),
        ({"BLOCK": "NonLocalBlock"}, [(4, 5), (8, 10), (16, 20)]),
        ({"BLOCK": "", "BOTTOM_UP": "build_non_local_resnet_backbone"}, [(8, 10)]),
    ],
)
def test_a_systems_difference_is_its_relation_blocks(slim_cfg, keys, maps):
    _, plain = slim_parts(slim_cfg, BLOCK="")
    model, parts = slim_parts(slim_cfg, **keys)
    assert tuple(parts) == PARTS
    assert plain["relation blocks"] == 0
    assert all(plain[part] > 0 for part in PARTS if part != "relation blocks")
    blocks = [item for item in relation_blocks(model).items() if not isinstance(item[1], MapBlock)]
    blocks.sort(reverse=True)  # coarsest first
    assert len(blocks) == len(maps)
    expected = sum(total_of_block(block, map_) for (_, block), map_ in zip(blocks, maps))
    assert parts == plain | {"relation blocks": expected}


def test_a_block_of_any_kind_is_a_relation_block(slim_cfg):
    model, parts = slim_parts(slim_cfg, BLOCK="Conv5x5Block", BLOCK_FEATURES=["res4"])
    assert isinstance(relation_blocks(model)["backbone.relations.p4"], Conv5x5Block)
    assert parts["relation blocks"] == 16 * 16 * 25 * 8 * 10


def test_detectron2_counts_the_same_for_a_whole_model(slim_cfg):
    model, parts = slim_parts(slim_cfg)
    inputs = [{"image": random_image(IMAGE_SIZE)}]
    with fixed_regions(model, IMAGE_SIZE):
        by_operator = flop_count_operators(model, inputs)
        analysis = FlopCountAnalysis(model, inputs).set_op_handle(**HANDLES)
        assert sum(parts.values()) == analysis.total()
    ours = {name: count / 1e9 for name, count in analysis.by_operator().items()}
    # Alone it lacks one product of each block, added in place.
    assert ours == by_operator | {"baddbmm_": ours["baddbmm_"]}


def test_parts_of_a_one_stage_detector(slim_cfg):
    slim_cfg.MODEL.META_ARCHITECTURE = "RetinaNet"
    slim_cfg.MODEL.RETINANET.IN_FEATURES = ["p3", "p4", "p5"]
    slim_cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[32]]
    slim_cfg.MODEL.FPN.IN_FEATURES = ["res3", "res4", "res5"]
    slim_cfg.MODEL.ENL_FPN.TOP_BLOCK = "LastLevelP6P7"
    _, parts = slim_parts(slim_cfg)
    positions = 16 * 20 + 8 * 10 + 4 * 5
    towers = 2 * 4 * 16 * 16 * 9
    predictions = 16 * 9 * 3 * (80 + 4)
    assert parts["heads"] == positions * (towers + predictions)
    assert parts["RPN"] == 0


def test_a_backbone_without_a_pyramid(slim_cfg):
    slim_cfg.MODEL.BACKBONE.NAME = "build_non_local_resnet_backbone"
    slim_cfg.MODEL.RESNETS.OUT_FEATURES = ["res4"]
    slim_cfg.MODEL.RPN.IN_FEATURES = slim_cfg.MODEL.ROI_HEADS.IN_FEATURES = ["res4"]
    slim_cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[32]]
    _, parts = slim_parts(slim_cfg)
    assert parts["FPN"] == 0
    assert parts["bottom-up"] > 0
    assert parts["relation blocks"] > 0


# ---- regions


def box_head_cost(cfg):
    pooled, hidden, classes = 16 * 7 * 7, cfg.MODEL.ROI_BOX_HEAD.FC_DIM, 80
    return pooled * hidden + hidden * hidden + hidden * (classes + 1 + 4 * classes)


@pytest.mark.parametrize("score_threshold", [0.0, 1.0])
def test_heads_see_as_many_regions_as_the_configuration_allows(slim_cfg, score_threshold):
    slim_cfg.MODEL.RPN.POST_NMS_TOPK_TEST = 70
    slim_cfg.TEST.DETECTIONS_PER_IMAGE = 30
    # What the random weights find must not matter.
    slim_cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = score_threshold
    _, box = slim_parts(slim_cfg)
    assert box["heads"] == 70 * box_head_cost(slim_cfg)

    slim_cfg.MODEL.MASK_ON = True
    slim_cfg.MODEL.ROI_MASK_HEAD.NAME = "MaskRCNNConvUpsampleHead"
    slim_cfg.MODEL.ROI_MASK_HEAD.NUM_CONV = 1
    slim_cfg.MODEL.ROI_MASK_HEAD.CONV_DIM = 8
    slim_cfg.MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION = 14
    _, mask = slim_parts(slim_cfg)
    mask_head = 16 * 8 * 9 * 14**2 + 8 * 8 * 4 * 14**2 + 8 * 80 * 28**2
    assert mask == box | {"heads": box["heads"] + 30 * mask_head}


def test_a_cascade_has_its_heads_three_times(slim_cfg):
    slim_cfg.MODEL.ROI_HEADS.NAME = "CascadeROIHeads"
    slim_cfg.MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG = True
    slim_cfg.MODEL.RPN.POST_NMS_TOPK_TEST = 70
    _, parts = slim_parts(slim_cfg)
    unused = slim_cfg.MODEL.ROI_BOX_HEAD.FC_DIM * 4 * 79  # of boxes for each class
    assert parts["heads"] == 3 * 70 * (box_head_cost(slim_cfg) - unused)


@torch.no_grad()
def test_regions_are_fixed_within_the_context_only(slim_cfg):
    model = build_random_model(slim_cfg, "cpu")
    inputs = [{"image": random_image(IMAGE_SIZE)}]
    before = model(inputs)[0]["instances"]
    with fixed_regions(model, IMAGE_SIZE):
        assert len(model(inputs)[0]["instances"]) == slim_cfg.TEST.DETECTIONS_PER_IMAGE
    after = model(inputs)[0]["instances"]
    assert torch.equal(before.pred_boxes.tensor, after.pred_boxes.tensor)


def test_an_rcnn_without_rpn_is_refused(slim_cfg):
    slim_cfg.MODEL.PROPOSAL_GENERATOR.NAME = "PrecomputedProposals"
    with pytest.raises(ValueError, match="needs an RPN"):
        count_multiply_adds(build_model(slim_cfg).eval(), IMAGE_SIZE)


# ---- the papers' rows


@pytest.mark.parametrize("name", PAPERS_SYSTEMS)
def test_the_papers_systems_are_recognised(name):
    assert papers_cost(shape_only(name)) == PAPERS_SYSTEMS[name][1]


OPTIONS = "MODEL.ENL_FPN.BLOCK_OPTIONS"


@pytest.mark.parametrize(
    "name, opts",
    [
        ("rcnn_R50", ["MODEL.ROI_HEADS.NUM_CLASSES", 20]),
        ("rcnn_R50", ["MODEL.BACKBONE.FREEZE_AT", 1]),
        ("rcnn_R101", []),
        ("mask_rcnn_R50", []),
        ("nl_bu_rcnn_R50", ["MODEL.NON_LOCAL_RESNET.BLOCK_OPTIONS.position", "cos_add"]),
        ("nl_rcnn_R50", ["MODEL.ENL_FPN.BLOCK_OPTIONS.affinity_norm", "mean"]),
        ("enl_rcnn_R50", ["MODEL.ENL_FPN.BLOCK_OPTIONS.position", "none"]),
        ("enl_rcnn_R50", ["MODEL.ENL_FPN.BLOCK_OPTIONS.phi_norm", "mean"]),
        ("enl_rcnn_R50", [f"{OPTIONS}.position_options.num_frequencies", 8]),
        ("enl_rcnn_R50", ["MODEL.ENL_FPN.BLOCK_FEATURES", ["res2", "res3", "res4"]]),
    ],
)
def test_other_systems_are_not_taken_for_the_papers(name, opts):
    assert papers_cost(shape_only(name, *opts)) is None


def test_a_block_without_parameters_is_none_of_the_papers_either():
    model = shape_only("rcnn_R50")
    model.backbone.extra = MapBlock(nn.Identity())
    assert papers_cost(model) is not None
    model.backbone.extra = MapBlock(nn.ReLU())
    assert papers_cost(model) is None


# ---- memory and time


def write_config(path, mebibytes):
    """A LazyConfig whose model allocates memory in each inference; it logs who loads it."""
    path.write_text(
        f"""
import os
import torch
from detectron2.config import LazyCall as L

with open({str(path.with_suffix(".log"))!r}, "w") as log:
    log.write(str(os.getpid()))

class Allocate(torch.nn.Module):
    pixel_mean = [110.0, 110.0, 110.0]

    def forward(self, inputs):
        assert inputs[0]["image"].shape == (3, 20, 30)
        return torch.ones({mebibytes} << 18)

model = L(Allocate)()
train = dict(device="cpu")
"""
    )
    return str(path)


def test_each_measurement_has_a_process_of_its_own(tmp_path):
    processes, added = [os.getpid()], []
    for mebibytes in (500, 50):
        config = write_config(tmp_path / f"allocates_{mebibytes}.py", mebibytes)
        measurement = measure(config, [], (20, 30))
        processes.append(int(Path(config).with_suffix(".log").read_text()))
        added.append((measurement.memory_peak - measurement.memory_before) / 2**20)
        assert measurement.device.startswith("CPU")
        assert measurement.seconds > 0
    assert len(set(processes)) == 3
    assert added == pytest.approx([500, 50], abs=20)


def test_a_process_that_dies_is_reported(tmp_path):
    config = tmp_path / "dies.py"
    config.write_text("import os\nos._exit(1)\n")
    with pytest.raises(RuntimeError, match=r"dies\.py: the process that measures it died"):
        measure(str(config), [], (20, 30))


# ---- the table and the tool


def cost(config, relation=0, papers=None, measurement=None):
    parts = dict(zip(PARTS, (60_000_000_000, 40_000_000_000, relation, 0, 10_000_000_000)))
    return Cost(config, (800, 1066), 41_000_000, 42_000_000, parts, papers, measurement)


def test_the_papers_numbers_stand_apart():
    measurement = Measurement("CPU, 1 thread(s)", 100 * 2**20, 400 * 2**20, 1.25)
    papers = PAPERS_SYSTEMS["enl_rcnn_R50"][1]
    table = format_costs(
        [cost("plain", measurement=measurement), cost("enl", 2_970_000_000, papers, measurement)]
    )
    plain, enl = (
        next(line for line in table.splitlines() if line.startswith(name))
        for name in ("plain ", "enl ")
    )
    own = "41.00 42.00 60.00 40.00 0.00 0.00 10.00 110.00 +0.00 400 300 1.25"
    assert plain.split() == ["plain", *own.split()]
    own = "41.00 42.00 60.00 40.00 2.97 0.00 10.00 112.97 +2.97 400 300 1.25"
    theirs = "+3ENL, TD 41.88 93.87 +3.67 1426"
    assert enl.split() == ["enl", *own.split(), *theirs.split()]
    assert "[papers]: Levi & Ullman" in table
    assert "not measured here" in table


def test_without_the_papers_systems_there_are_no_columns_for_them():
    table = format_costs([cost("plain")])
    assert "papers" not in table
    assert "peak" not in table


def test_the_tool_prints_the_table_and_writes_its_numbers(run_tool, tmp_path):
    configs = [CONFIGS / "cpu/digits_rcnn.yaml", CONFIGS / "cpu/digits_enl_rcnn.yaml"]
    numbers = tmp_path / "cost.json"
    overrides = ["MODEL.RPN.POST_NMS_TOPK_TEST", 50]
    words = [*overrides, "--size", 60, 90, "--no-measure", "--json", numbers]
    _, table, _ = run_tool(TOOL, *configs, *words)
    plain, enl = json.loads(numbers.read_text())
    assert plain["image_size"] == [60, 90]
    assert plain["measurement"] is None
    assert enl["trainable_parameters"] - plain["trainable_parameters"] == 3 * (4 * 64 * 32 + 160)
    relation = enl["multiply_adds"].pop("relation blocks")
    assert relation > 0
    assert plain["multiply_adds"] == enl["multiply_adds"] | {"relation blocks": 0}
    for config in configs:
        assert str(config) in table
    assert f"+{relation / 1e9:.2f}" in table


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["MODEL.DEVICE", "cpu"], "MODEL.DEVICE is not a .yaml or .py file"),
        (["missing.yaml"], "'missing.yaml' is neither a file"),
        ([CONFIGS / "rcnn_R50.yaml", "--size", 0, 10], "--size must be from 1 1"),
    ],
)
def test_the_tool_refuses_bad_arguments(run_tool, arguments, message):
    status, _, said = run_tool(TOOL, *arguments)
    assert status == 2 and message in said


def test_yaml_and_lazy_config_cost_the_same():
    size = (64, 96)
    lazy = analyze(str(CONFIGS / "lazy/enl_rcnn_R50.py"), [], size, measured=False)
    yaml = analyze(str(CONFIGS / "enl_rcnn_R50.yaml"), [], size, measured=False)
    assert lazy.multiply_adds == yaml.multiply_adds
    assert lazy.papers == yaml.papers == PAPERS_SYSTEMS["enl_rcnn_R50"][1]
