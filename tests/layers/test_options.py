"""Options, first weights, and what a block says of a wrong one."""

import inspect

import pytest
import torch
from torch import nn

from enl_detectron2.layers import (
    Conv5x5Block,
    ENLBlock,
    InvalidOption,
    MapBlock,
    NonLocalBlock,
)

pytestmark = pytest.mark.numerical


@pytest.mark.parametrize("kind", [ENLBlock, NonLocalBlock])
def test_options_are_those_it_was_made_with(kind):
    of_class = list(inspect.signature(kind).parameters.values())[1:]
    defaults = {parameter.name: parameter.default for parameter in of_class}
    term = {"num_frequencies": 9} if defaults["position"] == "cos_add" else {}
    assert kind(8).options() == defaults | {"inner_channels": 4, "position_options": term}
    block = kind(8, 3, position="l1_add", position_options={"scale": 7})
    assert (block.options()["inner_channels"], block.position_options) == (3, {"scale": 7})
    assert kind(8, **block.options()).options() == block.options()
    assert "position=l1_add" in repr(block)
    for projection in (block.theta, block.phi, block.g):
        assert (projection.in_channels, projection.out_channels) == (8, 3)
    assert (block.out.in_channels, block.out.out_channels) == (3, 8)


@pytest.mark.parametrize("kind", [ENLBlock, NonLocalBlock, Conv5x5Block])
def test_starts_as_the_papers_say(kind):
    torch.manual_seed(0)
    for layer in kind(512).children():
        if isinstance(layer, nn.Conv2d):
            weight = layer.weight.flatten()
            assert weight.std().item() == pytest.approx(0.01, rel=0.02)
            # Gaussian: 4.55 % of the draws lie beyond two standard deviations.
            assert (weight.abs() > 0.02).float().mean().item() == pytest.approx(0.0455, rel=0.1)
            assert not layer.bias.any()
    wide = list(kind(64, init_std=0.125).children())[0]
    assert wide.weight.std().item() == pytest.approx(0.125, rel=0.05)


@pytest.mark.parametrize("kind", [ENLBlock, NonLocalBlock, Conv5x5Block])
def test_starting_as_the_identity_it_still_learns(kind):
    block, x = kind(8), torch.randn(2, 8, 5, 6)
    block.zero_init()
    assert torch.equal(block(x), x)
    block(x).square().sum().backward()
    assert any(parameter.grad.any() for parameter in block.parameters())


@pytest.mark.parametrize(
    "kind, option, value, said",
    [
        (ENLBlock, "phi_norm", "tanh", "phi_norm must be .*'softmax', 'mean', 'none', got 'tanh'"),
        (ENLBlock, "theta_norm", "softmax", "theta_norm must be one of 'none', 'tanh', got"),
        (ENLBlock, "position", "cos_mul", "position must be .*'cos_add', .*'none', got 'cos_mul'"),
        (ENLBlock, "inner_channels", 0, "inner_channels must be a whole number of at least 1"),
        (ENLBlock, "init_std", float("nan"), "init_std must be a number above 0, got nan"),
        (NonLocalBlock, "affinity_norm", "none", "affinity_norm must be one of 'softmax', 'mean'"),
        (
            NonLocalBlock,
            "position",
            "cos",
            "position must be one of 'cos_add', 'cos_mul', .*'none'",
        ),
        (Conv5x5Block, "init_std", 0.0, "init_std must be a number above 0, got 0.0"),
    ],
)
def test_a_wrong_option_is_named_with_what_may_be(kind, option, value, said):
    with pytest.raises(InvalidOption, match=said) as error:
        kind(8, **{option: value})
    assert error.value.option == option


def test_the_control_is_a_residual_5x5_convolution_written_out():
    torch.manual_seed(0)
    block = Conv5x5Block(2).double()
    x = torch.randn(1, 2, 6, 7, dtype=torch.float64)
    padded = nn.functional.pad(x[0], (2, 2, 2, 2))
    expected = x.clone()
    for row in range(6):
        for column in range(7):
            patch = padded[:, row : row + 5, column : column + 5]
            response = (block.conv.weight * patch).sum(dim=(1, 2, 3)) + block.conv.bias
            expected[0, :, row, column] += response
    assert torch.allclose(block(x), expected, rtol=1e-12)


def test_a_relation_block_within_a_module_that_takes_the_map_alone_is_warned_of():
    with pytest.warns(UserWarning, match="Sequential takes the map alone.*gets no extent"):
        MapBlock(nn.Sequential(ENLBlock(8)))
