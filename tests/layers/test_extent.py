"""Blocks on padded maps: each image as if it had come alone, whatever stands beside it."""

import pytest
import torch
from equations import every_block, randomized, relative_error

from enl_detectron2.layers import ENLBlock, NonLocalBlock, image_extent, inside, map_extent

pytestmark = pytest.mark.numerical
both_kinds = pytest.mark.parametrize("kind", [ENLBlock, NonLocalBlock])
SIZES = [[7, 10], [5, 10], [6, 3], [1, 1]]  # one full, and one of one position


def padded_map():
    torch.manual_seed(1)
    return torch.randn(len(SIZES), 6, 7, 10, dtype=torch.float64), torch.tensor(SIZES)


def test_images_end_where_nothing_but_zeros_follows():
    images = torch.zeros(5, 3, 6, 9)
    images[0, :, 2, 3] = -1  # which zeros precede
    images[1, 2, :4, :8] = 1
    images[2] = 1
    images[3, 1, 4, 0] = float("nan")
    expected = [[3, 4], [4, 8], [6, 9], [5, 1], [6, 9]]  # all zeros: whole
    assert image_extent(images).tolist() == expected
    assert map_extent(torch.tensor([[1, 8], [9, 16]]), 8).tolist() == [[1, 1], [2, 2]]
    mask = inside(torch.tensor([[2, 1]]), torch.zeros(1, 5, 3, 2))
    assert mask[0, 0].tolist() == [[True, False], [True, False], [False, False]]


@every_block
def test_is_the_equations_over_each_images_own_positions(kind, equation, options):
    block, (x, extent) = randomized(kind(6, **options)), padded_map()
    expected = x.clone()  # which stays in the padding
    for index, (height, width) in enumerate(SIZES):
        own = x[index : index + 1, :, :height, :width]
        expected[index, :, :height, :width] = equation(block, own, **options)[0]
    strided = x.new_empty(4, 12, 14, 30)[:, ::2, ::2, ::3].copy_(x)
    transposed = x.permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0)
    for stored in (x, x.to(memory_format=torch.channels_last), strided, transposed):
        assert relative_error(block(stored, extent), expected) < 1e-10


@both_kinds
@torch.no_grad()
def test_what_stands_in_the_padding_does_not_matter_and_stays(kind):
    block, (x, extent) = randomized(kind(6)), padded_map()
    own = inside(extent, x)
    for value in (0.0, -1e4):
        other = torch.where(own, x, value)
        output = block(other, extent)
        assert (torch.where(own, value, output) == value).all()
        assert relative_error(output * own, block(x, extent) * own) < 1e-12


@both_kinds
def test_an_extent_of_the_whole_map_is_none(kind):
    block, (x, _) = randomized(kind(6)), padded_map()
    for size in ([7, 10], [700, 800]):  # more than the map, in pixels perhaps
        assert relative_error(block(x, torch.tensor([size] * len(x))), block(x)) < 1e-12
    nothing = torch.randn(0, 6, 5, 7, dtype=torch.float64)
    assert block(nothing, torch.zeros(0, 2, dtype=torch.int64)).shape == (0, 6, 5, 7)
    for extent in ([[7, 10]] * 4, torch.tensor([7, 10])):
        with pytest.raises(TypeError, match=r"extent must be an integer tensor \(B, 2\)"):
            block(x, extent)


@every_block
def test_stays_finite_for_small_and_large_inputs(kind, equation, options):
    torch.manual_seed(0)
    block, extent = kind(16, **options), torch.tensor([[9, 13], [12, 5]])
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter, std=0.25)
    for scale in (1e-4, 1e4):
        x = (scale * torch.randn(2, 16, 12, 13)).requires_grad_()
        with torch.autocast(x.device.type, dtype=torch.bfloat16):
            assert torch.isfinite(block(x, extent)).all()
        output = block(x, extent)
        assert torch.isfinite(output).all()
        # On a GPU the gradients of PyTorch's fused attention overflowed for affinities of 1e9.
        fused = options.get("affinity_norm") == "softmax" and not block.multiply
        if not (fused and x.is_cuda and scale == 1e4):
            for gradient in torch.autograd.grad(output.mean(), [x, *block.parameters()]):
                assert torch.isfinite(gradient).all()
