import inspect

import equations
import pytest
import torch
from equations import ENL_CASES, case_name, randomized, relative_error

from enl_detectron2.layers import ENLBlock, InvalidOption, NonLocalBlock

pytestmark = pytest.mark.numerical
every_case = pytest.mark.parametrize("options", ENL_CASES, ids=case_name)


@every_case
@pytest.mark.parametrize("height, width", [(1, 1), (1, 6), (5, 1), (7, 9), (11, 13)])
def test_equals_the_written_out_equations(options, height, width):
    block = randomized(ENLBlock(6, **options))
    x = torch.randn(2, 6, height, width, dtype=torch.float64)
    assert relative_error(block(x), equations.enl(block, x, **options)) < 1e-10


@pytest.mark.parametrize(
    "position, position_options",
    [("cos_add", {"num_frequencies": 2}), ("l1_add", {"scale": 3.0})],
)
def test_position_options_reach_the_equations(position, position_options):
    options = {"position": position, "position_options": position_options}
    block = randomized(ENLBlock(6, **options))
    x = torch.randn(1, 6, 6, 7, dtype=torch.float64)
    expected = equations.enl(block, x, phi_norm="softmax", theta_norm="none", **options)
    assert relative_error(block(x), expected) < 1e-10


def test_every_position_reaches_every_other():
    block = randomized(ENLBlock(6, position="none"))
    x = torch.randn(1, 6, 10, 12, dtype=torch.float64)
    changed = x.clone()
    changed[:, :, 0, 0] += 1
    assert ((block(changed) - block(x)).abs().sum(dim=1) > 0).all()


@pytest.mark.numerical(gpu=False)
@every_case
@pytest.mark.parametrize("extent", [None, [[3, 2], [2, 4]]], ids=["whole", "padded"])
def test_gradients_are_those_of_the_function(options, extent):
    position_options = {"num_frequencies": 2}
    block = randomized(ENLBlock(4, position_options=position_options, **options))
    x = torch.randn(2, 4, 3, 4, dtype=torch.float64, requires_grad=True)
    extent = None if extent is None else torch.tensor(extent)
    assert torch.autograd.gradcheck(*equations.as_function(block, x, extent), fast_mode=True)


@pytest.mark.parametrize("channels, expected", [(256, 131_712), (1024, 2_099_712)])
def test_has_the_papers_number_of_parameters(channels, expected):
    for kind in (ENLBlock, NonLocalBlock):
        assert sum(parameter.numel() for parameter in kind(channels).parameters()) == expected


def test_starts_as_the_papers_say():
    torch.manual_seed(0)
    block = ENLBlock(512)
    for projection in (block.theta, block.phi, block.g, block.out):
        weight = projection.weight.flatten()
        assert weight.std().item() == pytest.approx(0.01, rel=0.02)
        assert abs(weight.mean().item()) < 1e-4
        # Gaussian: 4.55 % of the draws lie beyond two standard deviations.
        assert (weight.abs() > 0.02).float().mean().item() == pytest.approx(0.0455, rel=0.1)
        assert not projection.bias.any()
    assert (block.theta.out_channels, ENLBlock(10, 3).theta.out_channels) == (256, 3)


@pytest.mark.parametrize("kind", [ENLBlock, NonLocalBlock])
def test_starts_with_the_given_deviation(kind):
    block = kind(512, init_std=0.125)
    for projection in (block.theta, block.phi, block.g, block.out):
        assert projection.weight.std().item() == pytest.approx(0.125, rel=0.02)
    for std in (0.0, -1.0, float("nan")):
        with pytest.raises(InvalidOption, match="init_std must be a number above 0, got "):
            kind(512, init_std=std)


@pytest.mark.parametrize(
    "option, value, message",
    [
        ("phi_norm", "tanh", "must be .*'softmax', 'mean', 'none', got 'tanh'"),
        ("theta_norm", "softmax", "must be .*'none', 'tanh', got 'softmax'"),
        ("position", "cos_mul", "must be .*'cos_add', .*'none', got 'cos_mul'"),
        ("position_options", {"num_frequencies": 0}, "of cos: num_frequencies .* at least 1"),
        ("position_options", {"sigma": 1}, "holds 'sigma'; .* have num_frequencies, scale"),
        ("inner_channels", 0, "must be .*at least 1, got 0"),
    ],
)
def test_a_wrong_option_is_named_with_what_may_be(option, value, message):
    with pytest.raises(InvalidOption, match=f"{option} {message}") as error:
        ENLBlock(8, **{option: value})
    assert error.value.option == option


def block_of_unit_size(options, channels=16):
    """A block whose output is about as large as its input."""
    block = ENLBlock(channels, **options)
    torch.manual_seed(0)
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter, std=channels**-0.5)
    return block


@every_case
def test_each_dtype_is_as_exact_as_it_can_be(options):
    block, x = block_of_unit_size(options), torch.randn(2, 16, 25, 34)
    expected = equations.enl(block, x, **options)
    assert relative_error(block(x).double(), expected) < 1e-5
    with torch.autocast(x.device.type, dtype=torch.bfloat16):
        output = block(x)
    assert output.dtype == torch.bfloat16
    assert relative_error(output.double(), expected) < 0.02  # 2^-8 is one rounding
    block, x = block.bfloat16(), x.bfloat16()
    assert block(x).dtype == torch.bfloat16
    assert relative_error(block(x).double(), equations.enl(block, x, **options)) < 0.03


def test_autocast_trains():
    block, x = block_of_unit_size(ENL_CASES[0]), torch.randn(2, 16, 12, 13, requires_grad=True)
    weights = [projection.weight for projection in (block.theta, block.g, block.out)]
    exact = torch.autograd.grad(block(x).sum(), [x, *weights])
    with torch.autocast(x.device.type, dtype=torch.bfloat16):
        rounded = torch.autograd.grad(block(x).sum(), [x, *weights])
    for one, other in zip(rounded, exact, strict=True):
        assert relative_error(one, other) < 0.03


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("extent", [None, [[60, 77]]])
def test_training_keeps_little_for_the_backward_pass(extent, layout):
    block = block_of_unit_size(ENL_CASES[0], channels=64)
    x = torch.randn(1, 64, 60, 80).to(memory_format=layout).requires_grad_()
    kept = {}
    with torch.autograd.graph.saved_tensors_hooks(
        lambda tensor: kept.update({tensor.untyped_storage().data_ptr(): tensor}) or tensor,
        lambda tensor: tensor,
    ):
        block(x, None if extent is None else torch.tensor(extent)).sum().backward()
    kept.pop(x.untyped_storage().data_ptr())
    size = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    assert size <= 1.1 * x.untyped_storage().nbytes()


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("options", ENL_CASES[:3], ids=case_name)
def test_the_output_has_the_layout_of_the_input(options, layout, batch):
    """To the strides, by which PyTorch chooses the layout of what follows."""
    block = block_of_unit_size(options)
    x = torch.randn(batch, 16, 12, 20).to(memory_format=layout)
    assert block(x).stride() == x.stride()
    assert block(x, torch.tensor([[12, 20], [3, 7]][-batch:])).stride() == x.stride()


def test_a_call_leaves_nothing_on_the_block():
    # DataParallel calls shallow copies of a module, whose state they share.
    block = block_of_unit_size(ENL_CASES[0])
    before = {name: dict(vars(module)) for name, module in block.named_modules()}
    block(torch.randn(2, 16, 12, 20)).sum().backward()
    assert {name: dict(vars(module)) for name, module in block.named_modules()} == before


@pytest.mark.parametrize("kind", [ENLBlock, NonLocalBlock])
def test_options_are_those_it_was_made_with(kind):
    defaults = list(inspect.signature(kind).parameters.items())[1:]
    options = {name: parameter.default for name, parameter in defaults}
    of_term = {"num_frequencies": 9} if kind is ENLBlock else {}
    assert kind(8).options() == {**options, "inner_channels": 4, "position_options": of_term}
    block = kind(8, 3, position="l1_add", position_options={"scale": 7, "num_frequencies": 2})
    assert block.options()["position_options"] == {"scale": 7}  # those of its own term
    assert kind(8, **block.options()).options() == block.options()
    assert "position=l1_add" in repr(block)
