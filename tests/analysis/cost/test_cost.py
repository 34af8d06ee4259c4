import json
import os
from pathlib import Path

import fvcore.nn
import pytest
import torch
import torch.nn.functional as F
from detectron2.modeling import build_model
from nightly import a_few
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
)
from enl_detectron2.analysis.cost.report import (
    Cost,
    analyze,
    count_parameters,
    format_costs,
)
from enl_detectron2.layers import ENLBlock, MapBlock, NonLocalBlock
from enl_detectron2.modeling import relation_blocks
from enl_detectron2.training.config import load_config

CONFIGS = Path(__file__).parents[3] / "configs"
TOOL = CONFIGS.parent / "tools/analyze_cost.py"
IMAGE_SIZE = (120, 150)  # padded to 128 × 160
# An image of 800 × 1066, padded to 800 × 1088, at strides 8, 16 and 32.
PAPERS_MAPS = [(100, 136), (50, 68), (25, 34)]

# Trainable parameters, and what table 3 of the BMVC paper says of them, in millions.
PAPERS_SYSTEMS = {
    "rcnn_R50": (41_477_536, 41.48),
    "nl_bu_rcnn_R50": (43_577_248, 43.58),
    "enl_rcnn_R50": (41_872_672, 41.88),
    "nl_rcnn_R50": (41_872_672, 41.88),
}


def shape_only(name, *opts):
    """The full-width model of a configuration, without memory for its parameters."""
    with torch.device("meta"):
        return build_random_model(load_config(str(CONFIGS / f"{name}.yaml"), opts), "meta")


@pytest.mark.parametrize("name", PAPERS_SYSTEMS)
def test_the_papers_systems_have_its_parameters(name):
    model = shape_only(name)
    trainable, papers = PAPERS_SYSTEMS[name]
    assert count_parameters(model, trainable=True) == trainable
    assert trainable / 1e6 == pytest.approx(papers, abs=0.01)
    frozen = 9_408 + 212_992  # the stem's convolution and res2's
    assert count_parameters(model) == trainable + frozen


class Call(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


RULES = {
    "aten::baddbmm_": (
        lambda x: torch.ones(2, 3, 5).baddbmm_(x, torch.ones(2, 4, 5)),
        2 * 3 * 4 * 5,
    ),
    "aten::scaled_dot_product_attention": (
        lambda x: F.scaled_dot_product_attention(x, torch.ones(2, 5, 4), torch.ones(2, 5, 6)),
        2 * 3 * 5 * (4 + 6),
    ),
}


def test_there_are_rules_for_what_fvcore_does_not_know_only(caplog):
    """If one of these fails, fvcore has learnt it, and the rule can go."""
    assert set(HANDLES) == set(RULES)
    for operation, (function, expected) in RULES.items():
        module, x = Call(function), torch.ones(2, 3, 4)
        analysis = fvcore.nn.FlopCountAnalysis(module, x).unsupported_ops_warnings(False)
        assert analysis.total() < count_by_module(module, x)[""] == expected
        assert operation in analysis.unsupported_ops()
    assert count_by_module(Call(lambda x: (x @ x).cumsum(dim=0)), torch.ones(4, 4))[""] == 4**3
    assert "aten::cumsum" in caplog.text  # what has no rule is named


def total_of_block(block, *maps):
    inputs = [torch.zeros(1, block.out.out_channels, *map_) for map_ in maps]
    return sum(count_by_module(block, x)[""] for x in inputs)


@pytest.mark.parametrize(
    "block, maps, giga",  # three ENL blocks cost less than the papers' formula, 2.61
    [
        (ENLBlock(256), PAPERS_MAPS, 2.47),
        (NonLocalBlock(1024), PAPERS_MAPS[1:2], 18.97),
        (NonLocalBlock(256, affinity_norm="mean"), PAPERS_MAPS, 52.8),
    ],
)
def test_blocks_cost_what_the_formula_says(block, maps, giga):
    assert total_of_block(block, *maps) == pytest.approx(giga * 1e9, rel=0.01)


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
        ({"BLOCK": "", "BOTTOM_UP": "build_non_local_resnet_backbone"}, [(8, 10)]),
    ],
)
def test_a_systems_difference_is_its_relation_blocks(slim_cfg, keys, maps):
    _, plain = slim_parts(slim_cfg, BLOCK="")
    model, parts = slim_parts(slim_cfg, **keys)
    assert tuple(parts) == PARTS
    assert all((plain[part] > 0) == (part != "relation blocks") for part in PARTS)
    blocks = [block for block in relation_blocks(model).values() if not isinstance(block, MapBlock)]
    expected = sum(total_of_block(block, map_) for block, map_ in zip(blocks, maps, strict=True))
    assert parts == plain | {"relation blocks": expected}
    _, parts = slim_parts(slim_cfg, BLOCK="Conv5x5Block", BLOCK_FEATURES=["res4"])
    assert parts == plain | {"relation blocks": 16 * 16 * 25 * 8 * 10}


def test_parts_of_detectors_without_an_rpn_or_a_pyramid(slim_cfg):
    slim_cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[32]]
    cfg = slim_cfg.clone()
    cfg.MODEL.META_ARCHITECTURE = "RetinaNet"
    cfg.MODEL.RETINANET.IN_FEATURES = ["p3", "p4", "p5"]
    _, parts = slim_parts(cfg)
    towers, predictions = 2 * 4 * 16 * 16 * 9, 16 * 9 * 3 * (80 + 4)
    assert parts["heads"] == (16 * 20 + 8 * 10 + 4 * 5) * (towers + predictions)
    assert parts["RPN"] == 0
    slim_cfg.MODEL.BACKBONE.NAME = "build_non_local_resnet_backbone"
    slim_cfg.MODEL.RESNETS.OUT_FEATURES = ["res4"]
    slim_cfg.MODEL.RPN.IN_FEATURES = slim_cfg.MODEL.ROI_HEADS.IN_FEATURES = ["res4"]
    _, parts = slim_parts(slim_cfg)
    assert parts["FPN"] == 0 and parts["bottom-up"] > 0 and parts["relation blocks"] > 0


# What the random weights find must not matter.
@pytest.mark.parametrize("score_threshold", a_few([1.0, 0.0], 2))
def test_heads_see_as_many_regions_as_the_configuration_allows(slim_cfg, score_threshold):
    slim_cfg.MODEL.RPN.POST_NMS_TOPK_TEST = 70
    slim_cfg.TEST.DETECTIONS_PER_IMAGE = 30
    slim_cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = score_threshold
    _, box = slim_parts(slim_cfg)
    pooled, hidden, classes = 16 * 7 * 7, slim_cfg.MODEL.ROI_BOX_HEAD.FC_DIM, 80
    of_one = pooled * hidden + hidden * hidden + hidden * (classes + 1 + 4 * classes)
    assert box["heads"] == 70 * of_one

    cascade = slim_cfg.clone()
    cascade.MODEL.ROI_HEADS.NAME = "CascadeROIHeads"
    cascade.MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG = True
    assert slim_parts(cascade)[1]["heads"] == 3 * 70 * (of_one - hidden * 4 * (classes - 1))

    slim_cfg.MODEL.MASK_ON = True
    slim_cfg.MODEL.ROI_MASK_HEAD.NUM_CONV = 1
    slim_cfg.MODEL.ROI_MASK_HEAD.CONV_DIM = 8
    slim_cfg.MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION = 14
    mask_head = 16 * 8 * 9 * 14**2 + 8 * 8 * 4 * 14**2 + 8 * 80 * 28**2
    assert slim_parts(slim_cfg)[1] == box | {"heads": box["heads"] + 30 * mask_head}


def test_a_detector_without_an_rpn_is_named(slim_cfg):
    slim_cfg.MODEL.PROPOSAL_GENERATOR.NAME = "PrecomputedProposals"
    with pytest.raises(ValueError, match="needs an RPN"):
        count_multiply_adds(build_model(slim_cfg).eval(), IMAGE_SIZE)


CONFIG = """
import os
import torch
from detectron2.config import LazyCall as L

class Allocate(torch.nn.Module):
    pixel_mean = [110.0, 110.0, 110.0]

    def forward(self, inputs):
        assert inputs[0]["image"].shape == (3, 20, 30)
        with open(os.environ["PROCESS_ID"], "w") as log:
            log.write(str(os.getpid()))
        return torch.ones(MEBIBYTES << 18)

model = L(Allocate)()
train = dict(device="cpu")
"""


@pytest.mark.parametrize("mebibytes", [50, pytest.param(500, marks=pytest.mark.slow)])
def test_each_measurement_has_a_process_of_its_own(tmp_path, monkeypatch, mebibytes):
    """Of a LazyConfig whose model allocates memory in each inference."""
    monkeypatch.setenv("PROCESS_ID", str(tmp_path / "pid"))
    config = tmp_path / "allocates.py"
    config.write_text(CONFIG.replace("MEBIBYTES", str(mebibytes)))
    measurement = measure(str(config), [], (20, 30))
    assert int((tmp_path / "pid").read_text()) != os.getpid()
    added = (measurement.memory_peak - measurement.memory_before) / 2**20
    assert added == pytest.approx(mebibytes, abs=20)
    assert measurement.device.startswith("CPU") and measurement.seconds > 0


@pytest.mark.slow
def test_a_process_that_dies_is_reported(tmp_path):
    config = tmp_path / "dies.py"
    config.write_text("import os\nos._exit(1)\n")
    with pytest.raises(RuntimeError, match=r"dies\.py: the process that measures it died"):
        measure(str(config), [], (20, 30))


def cost(config, relation=0, measurement=None):
    parts = dict(zip(PARTS, (60_000_000_000, 40_000_000_000, relation, 0, 10_000_000_000)))
    return Cost(config, (800, 1066), 41_000_000, 42_000_000, parts, measurement)


def test_the_table_compares_with_the_first():
    measurement = Measurement("CPU, 1 thread(s)", 100 * 2**20, 400 * 2**20, 1.25)
    plain = cost("plain", measurement=measurement)
    table = format_costs([plain, cost("enl", 2_970_000_000, measurement)])
    rows = {line.split()[0]: line.split()[1:] for line in table.splitlines() if line.strip()}
    own = "41.00 42.00 60.00 40.00 2.97 0.00 10.00 112.97 +2.97 400 300 1.25"
    assert rows["enl"] == own.split()
    assert "peak" not in format_costs([cost("plain")])


def test_the_tool_prints_the_table_and_writes_its_numbers(run_tool, tmp_path):
    configs = [CONFIGS / "cpu/digits_rcnn.yaml", CONFIGS / "cpu/digits_enl_rcnn.yaml"]
    numbers = tmp_path / "cost.json"
    words = ["MODEL.RPN.POST_NMS_TOPK_TEST", 50, "--size", 60, 90, "--json"]
    _, table, _ = run_tool(TOOL, *configs, *words, numbers)
    plain, enl = json.loads(numbers.read_text())
    assert plain["image_size"] == [60, 90] and plain["measurement"] is None
    assert enl["trainable_parameters"] - plain["trainable_parameters"] == 3 * (4 * 64 * 32 + 160)
    relation = enl["multiply_adds"].pop("relation blocks")
    assert plain["multiply_adds"] == enl["multiply_adds"] | {"relation blocks": 0}
    assert all(str(config) in table for config in configs) and f"+{relation / 1e9:.2f}" in table
    status, _, said = run_tool(TOOL, configs[0], "--size", 0, 10)
    assert status == 2 and "--size must be from 1 1" in said
    # By a LazyConfig the same.
    config, opts = "lazy/cpu/digits_enl_rcnn.py", ["model.proposal_generator.post_nms_topk=[50,50]"]
    lazy = analyze(config, opts, (60, 90), measured=False)
    assert lazy.multiply_adds == enl["multiply_adds"] | {"relation blocks": relation}
