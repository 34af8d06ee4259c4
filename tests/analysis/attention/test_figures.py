import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb

from enl_detectron2.analysis.attention.colours import ABOVE_ZERO, BELOW_ZERO, colour_map
from enl_detectron2.analysis.attention.figures import draw_attention, draw_position_filters
from enl_detectron2.analysis.attention.maps import Attention
from enl_detectron2.layers import CosPosition, L1Position


@pytest.fixture
def kept(monkeypatch):
    """Figures stay open after they are drawn; what the last one shows, panel by panel."""
    close = plt.close
    monkeypatch.setattr(plt, "close", lambda figure: None)

    def panels():
        return [axis for axis in plt.gcf().axes if axis.images]

    yield panels
    close("all")


def attention(position, *, multiply=False, softmax=True):
    torch.manual_seed(0)
    # 48×64 pixels of input, padded to 64×64, for an image of 96×128.
    maps, kernels = torch.rand(2, 4, 8, 8), None
    if position is not None:
        kernels = [kernel[0] for kernel in position.kernels(maps, normalized=not multiply)]
    return Attention(*maps, kernels, softmax, multiply, 8, (48, 64))


def test_the_parts_lie_over_the_image_where_they_belong(kept, tmp_path):
    block = attention(CosPosition(3))
    image = np.full((96, 128, 3), 100, dtype=np.uint8)
    draw_attention(image, {"some.block": block}, (40, 30), tmp_path / "drawn.png")
    assert (tmp_path / "drawn.png").stat().st_size > 1000
    plain, *maps = kept()
    assert plain.get_title() == "some.block, stride 8"
    seen = block.visible_row(1, 2)  # 40/128 of 8 columns, 30/96 of 6 rows
    for axis, expected in zip(maps, (seen.appearance, seen.position, seen.total), strict=True):
        drawn = axis.images[-1]
        assert np.allclose(drawn.get_array(), expected)
        assert tuple(drawn.get_extent()) == (0, 128, 96, 0)  # 6 rows and 8 columns cover it exactly
        assert drawn.colorbar is not None
        limit = expected.abs().max().item()
        assert drawn.get_clim() == pytest.approx((-limit if axis is not maps[0] else 0, limit))
    assert f"{seen.appearance_share:.0%}" in maps[0].get_title()


def test_says_how_the_parts_combine(kept, tmp_path):
    blocks = {"first": attention(None), "second": attention(L1Position(5.0), multiply=True)}
    image, boxes = np.zeros((96, 128, 3), dtype=np.uint8), np.array([[3.0, 3, 20, 20]])
    draw_attention(image, blocks, (40, 30), tmp_path / "drawn.png", boxes=boxes)
    drawn = [axis.get_title() for axis in kept()]
    assert drawn[:3] == ["first, stride 8", "F, appearance only", "second, stride 8"]
    assert drawn[3:] == ["F, appearance", "L, position", "F̃ = F ⊙ L"]
    assert kept()[0].images[0].get_array()[..., :3].max() > 100  # the box, half transparent


def test_filters_are_rows_of_the_position_term(kept, tmp_path):
    term, sizes = CosPosition(3), [(5, 8), (10, 16)]
    draw_position_filters(term, sizes, [(0.5, 0.5), (1.0, 0.0)], tmp_path / "filters.png")
    arrays = [axis.images[0].get_array().flatten() for axis in kept()]
    first, second = (term.matrix(torch.empty(1, 1, *size))[0, 0] for size in sizes)
    for array, row in zip(arrays, [first[20], first[7], second[88], second[15]], strict=True):
        assert np.allclose(array, row, atol=1e-6)
    with pytest.raises(ValueError, match="from 0 to 1"):
        draw_position_filters(term, [(5, 8)], [(3, 4)], tmp_path / "other.png")


def test_zero_is_transparent_and_the_sign_is_a_hue():
    signed, positive = colour_map(True, 0.8), colour_map(False)
    assert signed(0.5)[3] == pytest.approx(0, abs=0.005) == positive(0.0)[3]
    assert signed(0.25) == pytest.approx((*to_rgb(BELOW_ZERO), 0.4), abs=0.005)
    assert signed(1.0) == pytest.approx((*to_rgb(ABOVE_ZERO), 0.8), abs=0.005)
