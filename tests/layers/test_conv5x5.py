import pytest
import torch

from enl_detectron2.layers import Conv5x5Block

pytestmark = pytest.mark.numerical


def test_is_a_residual_5x5_convolution_written_out():
    torch.manual_seed(0)
    block = Conv5x5Block(2).double()
    x = torch.randn(1, 2, 6, 7, dtype=torch.float64)
    expected = x.clone()
    padded = torch.zeros(2, 10, 11, dtype=torch.float64)
    padded[:, 2:-2, 2:-2] = x[0]
    for row in range(6):
        for column in range(7):
            patch = padded[:, row : row + 5, column : column + 5]
            response = (block.conv.weight * patch).sum(dim=(1, 2, 3)) + block.conv.bias
            expected[0, :, row, column] += response
    assert torch.allclose(block(x), expected, rtol=1e-12)


def test_starts_as_the_non_local_blocks_do():
    torch.manual_seed(0)
    conv = Conv5x5Block(64).conv
    assert conv.weight.std().item() == pytest.approx(0.01, rel=0.02)
    assert not conv.bias.any()
    wide = Conv5x5Block(64, init_std=0.125).conv
    assert wide.weight.std().item() == pytest.approx(0.125, rel=0.02)


def test_depends_on_two_positions_around_and_no_more():
    block = Conv5x5Block(1)
    torch.nn.init.ones_(block.conv.weight)
    one_hot = torch.zeros(1, 1, 11, 11)
    one_hot[0, 0, 5, 5] = 1
    rows, columns = block(one_hot)[0, 0].nonzero(as_tuple=True)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (3, 7, 3, 7)
