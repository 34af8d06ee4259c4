"""A position term that the package doesn't know: one class and its name, and all else follows."""

import base64
import json
import re

import equations
import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from enl_detectron2.analysis.attention.explorer import explorer_page
from enl_detectron2.analysis.attention.figures import draw_attention, draw_position_filters
from enl_detectron2.analysis.attention.maps import block_attention, capture_attention
from enl_detectron2.analysis.cost.multiply_adds import count_by_module, count_multiply_adds
from enl_detectron2.analysis.cost.random_model import build_random_model, random_image
from enl_detectron2.export import write_onnx
from enl_detectron2.layers import ENLBlock, NonLocalBlock, SeparablePosition
from enl_detectron2.layers.position import POSITION_REGISTRY

HEIGHT, WIDTH, SCALE = 10, 12, 3.0


class GaussianPosition(SeparablePosition):
    """``L(i, j) = exp(−‖p_i − p_j‖² / (2 scale²))``."""

    def __init__(self, scale):
        super().__init__()
        self.scale = scale

    def kernel(self, cell, own):
        return torch.exp(-((cell[:, None] - cell) ** 2) / (2 * self.scale**2))[None]


@pytest.fixture(autouse=True)
def gaussian(monkeypatch):
    """The term under its name, with an option that the blocks have."""
    monkeypatch.setitem(POSITION_REGISTRY, "gauss", GaussianPosition)


def explicit(normalized):
    """L written out."""
    p = equations.positions(HEIGHT, WIDTH)
    matrix = torch.exp(-((p[:, None] - p[None]) ** 2).sum(dim=2) / (2 * SCALE**2))
    return matrix / matrix.sum(dim=1, keepdim=True) if normalized else matrix


@pytest.fixture(
    params=[
        (ENLBlock, "gauss_add", {}),
        (ENLBlock, "gauss_add", {"phi_norm": "mean", "theta_norm": "tanh"}),
        (NonLocalBlock, "gauss_add", {}),
        (NonLocalBlock, "gauss_mul", {}),
        (NonLocalBlock, "gauss_mul", {"affinity_norm": "mean"}),
    ],
    ids=str,
)
def seen(request):
    """A block, its input, and its attention."""
    kind, position, options = request.param
    block = equations.randomized(
        kind(6, position=position, position_options={"scale": SCALE}, **options)
    )
    x = torch.randn(1, 6, HEIGHT, WIDTH, dtype=torch.float64)
    return block, x, block_attention(block, x, 8, (8 * HEIGHT, 8 * WIDTH))


@torch.no_grad()
def test_rows_give_the_blocks_output(seen):
    block, x, attention = seen
    g, z = block.g(x)[0], block(x)
    for row, column in [(0, 0), (4, 7), (HEIGHT - 1, WIDTH - 1)]:
        of_row = attention.row(row, column)
        expected = explicit(not block.multiply)[row * WIDTH + column]
        assert torch.allclose(of_row.position.flatten(), expected)
        y = torch.einsum("hw,dhw->d", of_row.total, g)[None, :, None, None]
        expected = x[:, :, row, column] + block.out(y)[:, :, 0, 0]
        assert torch.allclose(z[:, :, row, column], expected, rtol=1e-9, atol=1e-12)
    assert not attention.signed["position"]


def test_the_page_holds_its_factors(seen):
    block, _, attention = seen
    image = np.zeros((8 * HEIGHT, 8 * WIDTH, 3), np.uint8)
    page = explorer_page(image, {"block": attention}, [], "name")
    data = re.search(r'<script type="application/json"[^>]*>(.*?)</script>', page)[1]
    (level,) = json.loads(data)["levels"]
    kernel_h, kernel_w = (
        np.frombuffer(base64.b64decode(packed["values"]), "<i2").reshape(length, length)
        * np.array(packed["scales"])[:, None]
        for packed, length in zip(level["position"], (HEIGHT, WIDTH), strict=True)
    )
    row = np.outer(kernel_h[4], kernel_w[7]).flatten()
    expected = explicit(not block.multiply)[4 * WIDTH + 7]
    assert np.allclose(row, expected, atol=expected.max().item() / 10_000)


def test_its_cost_is_counted(seen):
    block, x, _ = seen
    total = count_by_module(block.float(), x.float())[""]
    # As much as for the other term whose factors are as long as the map.
    way = block.position.split("_")[1]
    like_l1 = type(block)(6, **block.options() | {"inner_channels": 3, "position": f"l1_{way}"})
    assert total == count_by_module(like_l1, x.float())[""] > 4 * 6 * 3 * HEIGHT * WIDTH


def test_a_detector_with_it_is_drawn_counted_and_exported(slim_cfg, tmp_path):
    slim_cfg.MODEL.ENL_FPN.BLOCK_OPTIONS.position = "gauss_add"
    slim_cfg.MODEL.ENL_FPN.BLOCK_OPTIONS.position_options.scale = SCALE
    model = build_random_model(slim_cfg, "cpu")
    for name, parameter in model.backbone.named_parameters():
        if "relations.p" in name and "weight" in name:
            nn.init.normal_(parameter, std=0.3)
    _, attention = capture_attention(model, {"image": random_image((70, 100)).float()})
    image = np.zeros((70, 100, 3), np.uint8)
    draw_attention(image, attention, (50, 30), tmp_path / "attention.png")
    term = model.backbone.relations.p3.position_term
    draw_position_filters(term, [(5, 8)], [(0.5, 0.5)], tmp_path / "filters.png")
    assert count_multiply_adds(model, (70, 100))["relation blocks"] > 0

    backbone = model.backbone
    write_onnx(backbone, tmp_path / "backbone.onnx", (96, 128), opset=11)
    session = onnxruntime.InferenceSession(
        str(tmp_path / "backbone.onnx"), providers=["CPUExecutionProvider"]
    )
    batch = torch.randn(1, 3, 160, 96)
    batch[:, :, 140:] = 0
    with torch.no_grad():
        expected = backbone(batch)["p3"]
    (found,) = session.run(["p3"], {"image": batch.numpy()})
    assert (torch.from_numpy(found) - expected).abs().max() < 1e-4 * expected.abs().max()
