"""Under autocast the projections are of 16 bits; the softmax and the sums over N are float32's."""

import pytest
import torch

from enl_detectron2.layers import ENLBlock, NonLocalBlock

pytestmark = pytest.mark.numerical

# N = 12,288. A sum in bfloat16, which has 8 bits, stops growing at some 256 equal terms.
HEIGHT, WIDTH = 96, 128
BLOCKS = {
    "enl softmax": (ENLBlock, {"phi_norm": "softmax"}),
    "enl mean": (ENLBlock, {"phi_norm": "mean"}),
    "enl none": (ENLBlock, {"phi_norm": "none"}),
    "nl softmax": (NonLocalBlock, {"affinity_norm": "softmax"}),
    "nl mean": (NonLocalBlock, {"affinity_norm": "mean"}),
}


@pytest.mark.parametrize("name", BLOCKS)
@torch.no_grad()
def test_sums_of_many_equal_terms_are_whole(name):
    """θ, φ and g are constant over the map, so that y is known: all that is summed is equal."""
    block_class, options = BLOCKS[name]
    height, width = (HEIGHT, WIDTH) if block_class is ENLBlock else (32, 48)
    block = block_class(4, 2, position="none", **options)
    for parameter in block.parameters():
        torch.nn.init.zeros_(parameter)
    for projection in (block.theta, block.phi, block.g):
        torch.nn.init.constant_(projection.bias, 0.5)
    torch.nn.init.ones_(block.out.weight)
    x = torch.zeros(1, 4, height, width)
    with torch.autocast(x.device.type, dtype=torch.bfloat16):
        actual = block(x).double()
    expected = block.double()(x.double())
    assert expected.min() > 0
    assert ((actual - expected).abs() / expected).max() < 4 * 2**-8  # a few roundings


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("name", ["enl softmax", "enl mean"])
def test_a_sum_that_float16_cannot_hold(name, grad):
    """x is 8 everywhere, so its sum over the positions is 98,304, and float16 ends at 65,504."""
    block_class, options = BLOCKS[name]
    torch.manual_seed(0)
    block = block_class(4, position="none", **options)
    torch.nn.init.ones_(block.phi.bias)
    x = torch.full((1, 4, HEIGHT, WIDTH), 8.0)
    with torch.set_grad_enabled(grad):
        with torch.autocast(x.device.type, dtype=torch.float16):
            # As a lateral convolution gives it under autocast, and once as a residual sum may.
            actual = [block(x.half()), block(x)]
        expected = block(x)
    for each in actual:
        torch.testing.assert_close(each.float(), expected, rtol=2e-3, atol=0)


@torch.no_grad()
def test_the_softmax_over_positions_is_taken_in_float32():
    """φ spans a range in which bfloat16 can't tell exponents apart that float32 can."""
    torch.manual_seed(0)
    block = ENLBlock(16, position="none")
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    x = torch.randn(1, 16, HEIGHT, WIDTH)
    with torch.autocast(x.device.type, dtype=torch.bfloat16):
        actual = block.phi_hat(x)
        rounded = block.phi(x).double()  # what autocast itself leaves of φ
    expected = rounded.flatten(2).softmax(dim=2)
    assert (actual - expected).norm() < 1e-5 * expected.norm()


@torch.no_grad()
def test_float16_counts_more_positions_than_it_can_hold():
    """N = 67,200, and float16 ends at 65,504: a mean over it would be zero, in silence."""
    torch.manual_seed(0)
    block = ENLBlock(4, phi_norm="mean", position="none").half()
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    x = torch.randn(1, 4, 200, 336).half()
    added = block(x).double() - x.double()
    expected = block.double()(x.double()) - x.double()
    assert (added - expected).norm() < 0.01 * expected.norm()


def test_gradients_are_as_exact_as_the_output():
    torch.manual_seed(0)
    block, x = ENLBlock(16), torch.randn(2, 16, 12, 13, requires_grad=True)
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter, std=0.25)
    weights = [projection.weight for projection in (block.theta, block.g, block.out)]
    exact = torch.autograd.grad(block(x).sum(), [x, *weights])
    with torch.autocast(x.device.type, dtype=torch.bfloat16):
        rounded = torch.autograd.grad(block(x).sum(), [x, *weights])
    for one, other in zip(rounded, exact, strict=True):
        assert (one - other).norm() < 0.03 * other.norm()
