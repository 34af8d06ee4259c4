import base64
import json
import re

import cv2
import numpy as np
import pytest
import torch

from enl_detectron2.analysis.attention.explorer import Detection, explorer_page
from enl_detectron2.analysis.attention.maps import Attention
from enl_detectron2.layers import CosPosition, L1Position

IMAGE = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)


def attention(position=None, *, softmax=False, multiply=False):
    torch.manual_seed(0)
    theta, phi = torch.randn(2, 16, 8, 12)
    phi = (3 * phi).flatten(1).softmax(dim=1).view_as(phi)  # far from even, as trained ones are
    kernels = None
    if position is not None:
        kernels = position.kernels(theta[None], normalized=not multiply)
        kernels = [kernel[0].float() for kernel in kernels]
    return Attention(theta, phi, kernels, softmax, multiply, 8, (60, 90))


def data_of(page):
    """What a page's script will read."""
    return json.loads(re.search(r'<script type="application/json"[^>]*>(.*?)</script>', page)[1])


def decoded(packed, channels):
    values = np.frombuffer(base64.b64decode(packed["values"]), dtype="<i2")
    return values.reshape(channels, -1) * np.array(packed["scales"])[:, None]


def test_the_page_holds_theta_and_phi_to_16_bits_a_channel():
    block = attention()
    block.phi[3] = 0
    (level,) = data_of(explorer_page(IMAGE, {"block": block}, [], "name"))["levels"]
    for name, map_ in (("theta", block.theta), ("phi", block.phi)):
        expected = map_.flatten(1).double().numpy()
        error = np.abs(decoded(level[name], 16) - expected).max(axis=1)
        assert (error <= np.abs(expected).max(axis=1) / 32767 / 1.99).all()


@pytest.mark.parametrize(
    "block",
    [
        attention(),
        attention(CosPosition(7)),
        attention(L1Position(20), softmax=True, multiply=True),
    ],
)
def test_the_page_holds_what_a_row_is_computed_from(block):
    (level,) = data_of(explorer_page(IMAGE, {"block": block}, [], "name"))["levels"]
    assert (level["position"] is None) == (block.kernels is None)
    for packed, kernel in zip(level["position"] or [], block.kernels or [], strict=True):
        error = np.abs(decoded(packed, len(kernel)) - kernel.numpy())
        assert error.max() < kernel.max().item() / 60_000
    for name in ("softmax", "multiply", "signed"):
        assert level[name] == getattr(block, name)
    assert (level["height"], level["width"], level["visible"]) == (8, 12, [8, 12])
    assert level["cell"] == [8 / 60, 8 / 90]


def test_boxes_follow_an_image_that_is_shown_smaller_than_it_is():
    large = np.repeat(np.repeat(IMAGE, 2, axis=0), 2, axis=1)
    detections = [Detection("a", 0.5, (2, 4, 60, 80)), Detection("b", 0.75, (1, 1, 9, 9))]
    data = data_of(explorer_page(large, {"block": attention()}, detections, "name"))
    jpeg = base64.b64decode(data["image"].removeprefix("data:image/jpeg;base64,"))
    shown = cv2.imdecode(np.frombuffer(jpeg, dtype=np.uint8), cv2.IMREAD_COLOR)
    assert shown.shape == (60, 90, 3)
    assert (data["height"], data["width"]) == (60, 90)
    assert [(d["label"], d["score"], d["box"]) for d in data["detections"]] == [
        ("b", 0.75, [0.5, 0.5, 4.5, 4.5]),
        ("a", 0.5, [1, 2, 30, 40]),
    ]


def test_no_name_ends_the_page_early_or_fills_in_a_part():
    name = "</script><b>{{style}}"
    page = explorer_page(IMAGE, {"block": attention()}, [Detection(name, 1, (0, 0, 9, 9))], name)
    assert data_of(page)["title"] == data_of(page)["detections"][0]["label"] == name
    assert "<b>" not in page


def test_nothing_in_a_page_comes_from_elsewhere():
    page = explorer_page(IMAGE, {"block": attention()}, [], "name")
    assert set(re.findall(r'(?:src|href)="([^"]{0,5})', page)) <= {"", "data:"}
    assert "default-src 'none'" in page
    assert not re.search(r"url\(|@import|fetch\(|XMLHttpRequest", page)
