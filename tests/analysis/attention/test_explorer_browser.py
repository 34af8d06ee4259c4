"""The attention explorer in a browser: what it draws is what attention/maps.py computes."""

import shutil

import numpy as np
import pytest
import torch
from browser import NAMES, Page, find_chromium
from equations import randomized
from matplotlib.colors import to_rgb

from enl_detectron2.analysis.attention.colours import ABOVE_ZERO, BELOW_ZERO
from enl_detectron2.analysis.attention.explorer import Detection, explorer_page
from enl_detectron2.analysis.attention.maps import block_attention
from enl_detectron2.layers import ENLBlock, NonLocalBlock

# Padded to 96×160 pixels, as a detector pads. Blocks of each kind, with each way to combine.
IMAGE = np.random.default_rng(0).integers(0, 256, (90, 150, 3), dtype=np.uint8)
BLOCKS = {
    "bottom_up.non_local": (NonLocalBlock, {"position": "l1_mul"}, 32),
    "relation5": (ENLBlock, {"position": "l1_add", "theta_norm": "tanh"}, 32),
    "relation4": (NonLocalBlock, {"affinity_norm": "mean"}, 16),
    "relation3": (ENLBlock, {}, 8),
}
DETECTIONS = [Detection("large", 0.9, (30, 10, 130, 80)), Detection("small", 0.8, (4, 60, 14, 72))]

# The drawn map, row by row: red, green, blue, alpha.
DRAWN = """(() => {
  const map = document.getElementById("map");
  const pixels = map.getContext("2d").getImageData(0, 0, map.width, map.height).data;
  return [map.height, map.width, Array.from(pixels)];
})()"""


@pytest.fixture(scope="module")
def attention():
    blocks = {}
    for name, (block_class, options, stride) in BLOCKS.items():
        block = randomized(block_class(12, **options)).float()
        x = torch.randn(1, 12, 96 // stride, 160 // stride)
        blocks[name] = block_attention(block, x, stride, IMAGE.shape[:2])
    return blocks


@pytest.fixture(scope="module")
def folder(attention, tmp_path_factory):
    """A page with detections, and one without."""
    folder = tmp_path_factory.mktemp("pages")
    for name, detections in (("first.html", DETECTIONS), ("empty.html", [])):
        page = explorer_page(IMAGE, attention, detections, name, "a model")
        (folder / name).write_text(page, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    chromium = find_chromium()
    if chromium is None:
        pytest.skip(f"no browser: none of {', '.join(NAMES)} is installed (CONTRIBUTING.md)")
    if shutil.which(chromium) is None:
        pytest.fail(f"there is no browser {chromium}: CONTRIBUTING.md says how to install one")
    page = Page(chromium, tmp_path_factory.mktemp("profile"))
    yield page
    page.close()


@pytest.fixture
def page(browser, folder):
    browser.errors.clear()
    browser.open((folder / "first.html").as_uri())
    yield browser
    assert browser.errors == []


def text(page, id_):
    return page.run(f"document.getElementById('{id_}').textContent")


def place(page, selector):
    """(left, top, width, height) of an element in the window."""
    page.run(f"document.querySelector('{selector}').scrollIntoView({{block: 'nearest'}})")
    return page.run(
        f"(({{left, top, width, height}}) => [left, top, width, height])"
        f"(document.querySelector('{selector}').getBoundingClientRect())"
    )


def on_image(page, x, y):
    """Where a pixel of the image is in the window."""
    left, top, width, height = place(page, "#stage")
    return left + width * x / IMAGE.shape[1], top + height * y / IMAGE.shape[0]


def click(page, selector, left=None):
    x, y, width, height = place(page, selector)
    page.click(x + (width / 2 if left is None else left), y + height / 2)


def choose(page, name, value):
    """Clicks one of the choices of a setting."""
    click(page, f'input[name="{name}"][value="{value}"]')


def assert_draws(page, expected, *, signed=True):
    """That the drawn colours and the values beside them are those of a map."""
    rows, columns, pixels = page.run(DRAWN)
    expected = expected.numpy()
    assert (rows, columns) == expected.shape
    pixels = np.array(pixels).reshape(-1, 4)
    low, high = expected.min(), expected.max()
    limit = max(-low, high)
    values = expected.flatten() / limit
    assert np.abs(pixels[:, 3] - 255 * np.abs(values)).max() < 0.75  # 0.5 is rounding
    hues = np.where(values[:, None] < 0, to_rgb(BELOW_ZERO), to_rgb(ABOVE_ZERO))
    opaque = pixels[:, 3] > 50  # a browser keeps the hue of others less exactly
    assert np.abs(pixels[:, :3] - 255 * hues)[opaque].max() < 4
    for id_, value in (("value-min", low), ("value-max", high)):
        assert number(text(page, id_)) == pytest.approx(value, rel=0.006)  # three digits
    shown = page.run("[...document.querySelectorAll('#ticks span')].map(t => t.textContent)")
    ticks = [-limit, 0, limit] if signed else [0, limit / 2, limit]
    assert [number(tick) for tick in shown] == pytest.approx(ticks, rel=0.006)
    bar = page.run("document.getElementById('legend-bar').style.background")
    assert bar.count("rgb") == 1 + signed


def number(shown):
    digits = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻−", "0123456789--")
    return float(shown.translate(digits).replace("×10", "e"))


@pytest.mark.parametrize("level", range(len(BLOCKS)), ids=list(BLOCKS))
def test_draws_what_the_library_computes(page, attention, level):
    block = list(attention.values())[level]
    choose(page, "level", level)
    for x, y in [(20.5, 30.5), (149.5, 89.5), (75.5, 3.5)]:
        page.click(*on_image(page, x, y))
        seen = block.visible_row(*block.cell_at(x / 150, y / 90))
        choose(page, "part", "appearance")
        assert_draws(page, seen.appearance, signed=block.signed["appearance"])
        if block.kernels is None:
            assert page.run("document.querySelectorAll('[name=part]:disabled').length") == 2
            continue
        choose(page, "part", "position")
        assert_draws(page, seen.position, signed=block.signed["position"])
        choose(page, "part", "total")
        assert_draws(page, seen.total, signed=block.signed["total"])
        if block.multiply:
            assert page.run("document.getElementById('share').hidden")
        else:
            share = f"{100 * seen.appearance_share:.0f} %"
            assert text(page, "share-appearance-text") == share


def test_follows_the_mouse_until_a_click_holds_a_pixel(page, attention):
    block = attention["relation3"]
    page.move(*on_image(page, 60.5, 44.5))
    assert_draws(page, block.visible_row(5, 7).total)
    page.click(*on_image(page, 100.5, 12.5))
    page.move(*on_image(page, 60.5, 44.5))
    assert_draws(page, block.visible_row(1, 12).total)
    under_pointer = block.visible_row(1, 12).total[5, 7].item()
    assert number(text(page, "value-pointer")) == pytest.approx(under_pointer, rel=0.006, abs=1e-5)
    page.press("Escape")
    page.move(*on_image(page, 61.5, 44.5))
    assert_draws(page, block.visible_row(5, 7).total)
    click(page, "#strength", left=2)
    assert page.run("getComputedStyle(document.getElementById('map')).opacity") == "0"


def test_keys_reach_everything(page, attention):
    block = attention["relation3"]
    focused = []
    for _ in range(8):
        page.press("Tab")
        focused.append(page.run("document.activeElement.id || document.activeElement.name"))
        if focused[-1] == "stage":
            outline = page.run("getComputedStyle(document.activeElement).outlineStyle")
            page.press("ArrowRight")
            page.press("ArrowDown")
    order = "stage hold level part strength show-boxes detections"
    assert focused[:7] == order.split()
    assert outline == "solid"
    # It started from the first detection's centre, in row 5, column 10.
    assert_draws(page, block.visible_row(6, 11).total)
    assert "row 6, column 11" in text(page, "announcement")


def test_a_detection_is_asked_from_its_centre(page, attention):
    block = attention["relation3"]
    small, large = block.visible_row(8, 1).total, block.visible_row(5, 10).total
    assert_draws(page, large)  # what the page starts with
    click(page, "#detection-1")
    assert_draws(page, small)
    assert page.run("document.getElementById('detection-1').ariaSelected") == "true"
    page.click(*on_image(page, 30, 50))  # the large one's edge
    assert_draws(page, large)
    page.click(*on_image(page, 5, 61))  # within the small one
    assert_draws(page, small)
    page.press("ArrowDown")  # the image has the focus now: a cell down
    assert_draws(page, block.visible_row(9, 1).total)


@pytest.mark.parametrize("dark", [False, True])
def test_fits_a_phone_and_answers_a_finger(browser, folder, attention, dark):
    browser.errors.clear()
    browser.open((folder / "first.html").as_uri(), width=375, height=800, touch=True, dark=dark)
    assert browser.run("document.documentElement.scrollWidth") == 375
    browser.tap(*on_image(browser, 60.5, 44.5))
    assert_draws(browser, attention["relation3"].visible_row(5, 7).total)
    assert browser.errors == []
