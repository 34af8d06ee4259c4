"""CONTRIBUTING.md's position term, from a file of the user's own: trained, looked at, exported."""

import json
import re
import sys
from pathlib import Path

import cv2
import equations
import onnxruntime
import pytest
import torch
from detectron2.config import LazyConfig, instantiate
from tiny_training import lazy_words, write_config, write_images

from enl_detectron2.analysis.attention.maps import block_attention
from enl_detectron2.analysis.cost.multiply_adds import count_by_module
from enl_detectron2.layers import POSITION_REGISTRY, ENLBlock, NonLocalBlock
from enl_detectron2.training.launch import main
from enl_detectron2.utils import imports

ROOT = Path(__file__).parents[1]
HEIGHT, WIDTH, SIGMA = 10, 12, 3.0
OPTIONS = {"position": "my_gauss_add", "position_options": {"sigma": SIGMA}}


@pytest.fixture
def file(tmp_path, monkeypatch):
    page = (ROOT / "CONTRIBUTING.md").read_text()
    (code,) = (c for c in re.findall(r"```python\n(.*?)```", page, re.S) if '"my_gauss"' in c)
    (tmp_path / "gauss.py").write_text(code)
    monkeypatch.setattr(imports, "IMPORTED", [])
    before = dict(POSITION_REGISTRY)
    yield tmp_path / "gauss.py"
    POSITION_REGISTRY.clear()
    POSITION_REGISTRY.update(before)
    sys.modules.pop("gauss", None)


def test_it_trains_is_looked_at_and_exported(file, tmp_path, run_tool):
    write_images(tmp_path)
    config, own = write_config(tmp_path), tmp_path / "own.yaml"
    blocks = {"ENL_FPN": {"BLOCK_OPTIONS": OPTIONS}}
    own.write_text(json.dumps({"_BASE_": str(config), "MODEL": blocks}))
    main(["--import", str(file), "--config-file", str(own), "SOLVER.MAX_ITER", "1"])
    output = tmp_path / "output"
    trained = ["--config-file", output / "config.yaml"]
    trained += ["--opts", "MODEL.WEIGHTS", output / "model_final.pth"]
    looked_at = ["--import", file, "--input", tmp_path / "images/image 0.png", "--output"]
    words = ["image", *looked_at, tmp_path / "attention.png", "--at", 5, 5, *trained]
    assert run_tool(ROOT / "tools/show_attention.py", *words)[0] == 0
    assert cv2.imread(str(tmp_path / "attention.png")) is not None
    words = [*looked_at, tmp_path / "pages", *trained]
    assert run_tool(ROOT / "tools/show_attention.py", "explorer", *words)[0] == 0
    assert '"position":[{' in (tmp_path / "pages/image 0.html").read_text()
    words = [trained[1], tmp_path / "own.onnx", *trained[3:], "--import", file]
    words += ["--format", "onnx-backbone"]
    status, said, _ = run_tool(ROOT / "tools/export_model.py", *words)
    assert status == 0 and "in ONNX Runtime maps differ by at most" in said
    session = onnxruntime.InferenceSession(tmp_path / "own.onnx")
    metadata = session.get_modelmeta().custom_metadata_map
    assert (metadata["colour_order"], metadata["size_divisibility"]) == ("BGR", "32")


def test_by_lazy_config(file, tmp_path):
    write_images(tmp_path)
    lazy = ROOT / "configs/lazy/cpu/digits_enl_rcnn.py"
    options = "model.backbone.block_options={position: my_gauss_add, position_options: {sigma: 3}}"
    words = [*lazy_words(tmp_path, tmp_path / "output"), "train.max_iter=1", options]
    main(["--import", str(file), "--config-file", str(lazy), *words])
    model = instantiate(LazyConfig.load(str(tmp_path / "output/config.yaml")).model)
    model.load_state_dict(torch.load(tmp_path / "output/model_final.pth")["model"])
    assert model.backbone.relations["p4"].position_term.sigma == 3


def explicit(normalized):
    """L written out."""
    p = equations.positions(HEIGHT, WIDTH)
    matrix = torch.exp(-((p[:, None] - p[None]) ** 2).sum(dim=2) / (2 * SIGMA**2))
    return matrix / matrix.sum(dim=1, keepdim=True) if normalized else matrix


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (ENLBlock, {"phi_norm": "mean", "theta_norm": "tanh"}),
        (NonLocalBlock, {}),
        (NonLocalBlock, {"position": "my_gauss_mul"}),
    ],
    ids=str,
)
@torch.no_grad()
def test_its_rows_are_the_blocks_and_its_cost_is_counted(file, kind, options):
    imports.import_module(str(file))
    block = equations.randomized(kind(6, **OPTIONS | options))
    x = torch.randn(1, 6, HEIGHT, WIDTH, dtype=torch.float64)
    attention = block_attention(block, x, 8, (8 * HEIGHT, 8 * WIDTH))
    matrix = explicit(normalized=not getattr(block, "multiply", False))
    g, z = block.g(x)[0], block(x)
    for row, column in [(0, 0), (4, 7), (HEIGHT - 1, WIDTH - 1)]:
        of_row = attention.row(row, column)
        assert torch.allclose(of_row.position.flatten(), matrix[row * WIDTH + column])
        y = torch.einsum("hw,dhw->d", of_row.total, g)[None, :, None, None]
        expected = x[:, :, row, column] + block.out(y)[:, :, 0, 0]
        assert torch.allclose(z[:, :, row, column], expected, rtol=1e-9, atol=1e-12)

    # As much as the other term whose factors are as long as the map.
    like_l1 = kind(6, 3, **options | {"position": block.position.replace("my_gauss", "l1")})
    counts = [count_by_module(b.float(), x.float())[""] for b in (block, like_l1)]
    assert counts[0] == counts[1] > 4 * 6 * 3 * HEIGHT * WIDTH
