import equations
import pytest
import torch
from detectron2.modeling import build_model
from equations import every_block, randomized

from enl_detectron2.analysis.attention.maps import Attention, block_attention, capture_attention
from enl_detectron2.layers import ENLBlock, NonLocalBlock

HEIGHT, WIDTH = 10, 12  # longer than the frequencies of the cosine term


def assert_rows_give_the_output(block, x, attention, *, z, rows, atol=1e-12):
    """That Σ_j F̃[i, j] g_j, passed through out and added to x, is what the block gives."""
    height, width = attention.map_size
    with torch.no_grad():
        g = block.g(x)[0, :, :height, :width]
        for row, column in rows:
            total = attention.row(row, column).total
            y = torch.einsum("hw,dhw->d", total, g)[None, :, None, None]
            expected = x[0, :, row, column] + block.out(y)[0, :, 0, 0]
            assert torch.allclose(z[0, :, row, column], expected, rtol=10 * atol, atol=atol)


@every_block
def test_each_row_is_that_of_the_explicit_matrix(kind, equation, options):
    explicit = equations.enl_affinity if kind is ENLBlock else equations.non_local_affinity
    block = randomized(kind(6, **options))
    x = torch.randn(1, 6, HEIGHT, WIDTH, dtype=torch.float64)
    theta, phi = (equations.project(p, x[0].flatten(1)) for p in (block.theta, block.phi))
    matrix = explicit(theta, phi, HEIGHT, WIDTH, **options).detach()
    attention = block_attention(block, x, 8, (80, 96))
    rows = [(0, 0), (4, 7), (HEIGHT - 1, WIDTH - 1)]
    for row, column in rows:
        seen = attention.row(row, column)
        expected = matrix[row * WIDTH + column]
        assert torch.allclose(seen.total.flatten(), expected, rtol=1e-9, atol=1e-12)
        if options["position"] == "none":
            assert seen.position is None and seen.appearance_share is None
            continue
        of_row = equations.position_matrix(options["position"], HEIGHT, WIDTH)
        of_row = of_row[row * WIDTH + column]
        assert torch.allclose(seen.position.flatten(), of_row)
        share = seen.appearance.abs().sum() / (seen.appearance.abs().sum() + of_row.abs().sum())
        share = None if options["position"].endswith("mul") else pytest.approx(share.item())
        assert seen.appearance_share == share
    assert_rows_give_the_output(block, x, attention, z=block(x), rows=rows)


@pytest.mark.parametrize(
    ("block", "expected"),
    [
        (ENLBlock(6), (True, True, True)),
        (ENLBlock(6, position="l1_add"), (True, False, True)),
        (NonLocalBlock(6), (False, False, False)),
        (NonLocalBlock(6, position="cos_add"), (False, True, True)),
        (NonLocalBlock(6, affinity_norm="mean"), (True, False, True)),
    ],
)
def test_says_which_maps_may_go_below_zero(block, expected):
    signed = block_attention(block, torch.randn(1, 6, HEIGHT, WIDTH), 8, (80, 96)).signed
    assert tuple(signed[part] for part in ("appearance", "position", "total")) == expected


def test_a_point_belongs_to_the_cell_that_covers_it():
    maps = torch.rand(2, 2, 12, 16)
    attention = Attention(*maps, None, False, False, 8, (70, 100))
    assert attention.visible_size == (9, 13)  # 72×104 pixels cover the image
    assert attention.cell_at(0, 0) == (0, 0)
    assert attention.cell_at(47.9 / 100, 0) == (0, 5)
    assert attention.cell_at(48.1 / 100, 16.1 / 70) == (2, 6)
    assert attention.cell_at(1, 1) == (8, 12)
    assert attention.visible_row(8, 12).total.shape == (9, 13)
    with pytest.raises(ValueError, match="outside the image"):
        attention.cell_at(1.01, 0.5)


def test_captures_what_each_block_of_a_detector_is_given(slim_cfg):
    slim_cfg.MODEL.ENL_FPN.BOTTOM_UP = "build_non_local_resnet_backbone"
    slim_cfg.MODEL.NON_LOCAL_RESNET.BLOCK_OPTIONS.position = "cos_add"
    model = build_model(slim_cfg).eval()
    modules = dict(model.named_modules())
    outputs = {}
    for name, module in modules.items():
        if isinstance(module, (ENLBlock, NonLocalBlock)):
            torch.nn.init.normal_(module.out.weight)
            module.register_forward_hook(
                lambda module, args, output, name=name: outputs.update({name: (args[0], output)})
            )
    record = {"image": torch.randint(0, 256, (3, 70, 100), dtype=torch.uint8)}
    output, attention = capture_attention(model, record)
    assert "instances" in output
    assert {name: block.stride for name, block in attention.items()} == {
        "backbone.bottom_up.res4.non_local": 16,
        "backbone.relations.p5": 32,
        "backbone.relations.p4": 16,
        "backbone.relations.p3": 8,
    }
    # 70×100, padded to 96×128, of which the blocks see no more than the image.
    assert attention["backbone.relations.p3"].map_size == (9, 13)
    for name, block in attention.items():
        x, z = outputs[name]
        assert_rows_give_the_output(modules[name], x, block, rows=[(1, 2)], z=z, atol=1e-4)
    assert not model.backbone._forward_pre_hooks  # nothing is left behind
