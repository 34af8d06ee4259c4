"""What a block computes, in float64 and less, and what it is made with."""

import inspect

import equations
import pytest
import torch
from equations import ENL_CASES, every_block, randomized, relative_error

from enl_detectron2.layers import Conv5x5Block, ENLBlock, InvalidOption, NonLocalBlock

pytestmark = pytest.mark.numerical
both_kinds = pytest.mark.parametrize("kind", [ENLBlock, NonLocalBlock])
LAYOUTS = [torch.contiguous_format, torch.channels_last]


@every_block
def test_equals_the_written_out_equations(kind, equation, options):
    block = randomized(kind(6, **options))
    for height, width in [(1, 1), (1, 6), (5, 1), (11, 13)]:
        x = torch.randn(2, 6, height, width, dtype=torch.float64)
        expected = equation(block, x, **options)
        for layout in LAYOUTS:
            assert relative_error(block(x.to(memory_format=layout)), expected) < 1e-10


@pytest.mark.parametrize(
    "kind, options",
    [
        (ENLBlock, {"position": "cos_add", "position_options": {"num_frequencies": 2}}),
        (ENLBlock, {"position": "l1_add", "position_options": {"scale": 3.0}}),
        (NonLocalBlock, {"position": "cos_mul", "position_options": {"num_frequencies": 2}}),
    ],
)
def test_position_options_reach_the_equations(kind, options):
    block = randomized(kind(6, **options))
    x = torch.randn(1, 6, 6, 7, dtype=torch.float64)
    equation, norms = equations.non_local, {"affinity_norm": "softmax"}
    if kind is ENLBlock:
        equation, norms = equations.enl, {"phi_norm": "softmax", "theta_norm": "none"}
    assert relative_error(block(x), equation(block, x, **norms, **options)) < 1e-10


@pytest.mark.numerical(gpu=False)
@every_block
@pytest.mark.parametrize("extent", [None, [[3, 2], [2, 4]]], ids=["whole", "padded"])
def test_gradients_are_those_of_the_function(kind, equation, options, extent):
    block = randomized(kind(4, position_options={"num_frequencies": 2}, **options))
    x = torch.randn(2, 4, 3, 4, dtype=torch.float64, requires_grad=True)
    extent = None if extent is None else torch.tensor(extent)
    assert torch.autograd.gradcheck(*equations.as_function(block, x, extent), fast_mode=True)


class LargestStorage(torch.utils._python_dispatch.TorchDispatchMode):
    """Notes the largest number of elements that any operation returns."""

    elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for output in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(output, torch.Tensor):
                self.elements = max(self.elements, output.numel())
        return result


@every_block
def test_forms_the_affinity_only_where_it_has_to(kind, equation, options):
    # A GPU's fused attention wants D to be a multiple of 4.
    block, positions = kind(8, **options), 40 * 40
    with LargestStorage() as largest, torch.no_grad():
        block(torch.randn(1, 8, 40, 40))
    needs_it = options.get("affinity_norm") == "mean" or options["position"].endswith("_mul")
    assert (largest.elements >= positions**2) == needs_it


def test_a_5x5_convolution_is_the_residual_one():
    torch.manual_seed(0)
    block = Conv5x5Block(2).double()
    assert block.conv.weight.std().item() == pytest.approx(0.01, rel=0.2)
    assert Conv5x5Block(64, init_std=0.125).conv.weight.std().item() == pytest.approx(0.125, 0.02)
    x = torch.randn(1, 2, 6, 7, dtype=torch.float64)
    patches = torch.nn.functional.unfold(x, 5, padding=2)  # (1, 2·25, 6·7)
    expected = x + (block.conv.weight.flatten(1) @ patches).view_as(x)
    assert torch.allclose(block(x), expected, rtol=1e-12)


@both_kinds
def test_starts_as_the_papers_say(kind):
    torch.manual_seed(0)
    block = kind(512)
    for projection in (block.theta, block.phi, block.g, block.out):
        weight = projection.weight.flatten()
        assert weight.std().item() == pytest.approx(0.01, rel=0.02)
        # Gaussian: 4.55 % of the draws lie beyond two standard deviations.
        assert (weight.abs() > 0.02).float().mean().item() == pytest.approx(0.0455, rel=0.1)
        assert not projection.bias.any()
    assert (block.theta.out_channels, kind(10, 3).theta.out_channels) == (256, 3)
    assert kind(512, init_std=0.125).out.weight.std().item() == pytest.approx(0.125, rel=0.02)
    for channels, count in ((256, 131_712), (1024, 2_099_712)):  # the papers'
        assert sum(parameter.numel() for parameter in kind(channels).parameters()) == count


@pytest.mark.parametrize(
    "kind, option, value, message",
    [
        (ENLBlock, "phi_norm", "tanh", "must be .*'softmax', 'mean', 'none', got 'tanh'"),
        (ENLBlock, "position", "cos_mul", "must be .*'cos_add', .*'none', got 'cos_mul'"),
        (ENLBlock, "position_options", {"num_frequencies": 0}, "of cos: num_freq.* at least 1"),
        (ENLBlock, "position_options", {"sigma": 1}, "holds 'sigma'; .* have num_frequencies, sc"),
        (ENLBlock, "inner_channels", 0, "must be .*at least 1, got 0"),
        (ENLBlock, "init_std", float("nan"), "must be a number above 0, got nan"),
        (NonLocalBlock, "affinity_norm", "none", "must be one of 'softmax', 'mean', got"),
    ],
)
def test_a_wrong_option_is_named_with_what_may_be(kind, option, value, message):
    with pytest.raises(InvalidOption, match=f"{option} {message}") as error:
        kind(8, **{option: value})
    assert error.value.option == option


@both_kinds
def test_options_are_those_it_was_made_with(kind):
    defaults = list(inspect.signature(kind).parameters.items())[1:]
    options = {name: parameter.default for name, parameter in defaults}
    of_term = {"num_frequencies": 9} if kind is ENLBlock else {}
    assert kind(8).options() == {**options, "inner_channels": 4, "position_options": of_term}
    block = kind(8, 3, position="l1_add", position_options={"scale": 7, "num_frequencies": 2})
    assert block.options()["position_options"] == {"scale": 7}  # those of its own term
    assert kind(8, **block.options()).options() == block.options()
    assert "position=l1_add" in repr(block)


def block_of_unit_size(options, channels=16):
    """A block whose output is about as large as its input."""
    block = ENLBlock(channels, **options)
    torch.manual_seed(0)
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter, std=channels**-0.5)
    return block


@pytest.mark.parametrize("options", ENL_CASES, ids=equations.case_name)
def test_each_dtype_is_as_exact_as_it_can_be(options):
    block, x = block_of_unit_size(options), torch.randn(2, 16, 25, 34)
    expected = equations.enl(block, x, **options)
    assert relative_error(block(x).double(), expected) < 1e-5
    with torch.autocast(x.device.type, dtype=torch.bfloat16):
        output = block(x)
    assert output.dtype == torch.bfloat16
    assert relative_error(output.double(), expected) < 0.02  # 2^-8 is one rounding
    block, x = block.bfloat16(), x.bfloat16()
    assert relative_error(block(x).double(), equations.enl(block, x, **options)) < 0.03


@pytest.mark.parametrize("layout", LAYOUTS)
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


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_output_has_the_layout_of_the_input(layout):
    """To the strides, by which PyTorch chooses the layout of what follows."""
    block = block_of_unit_size(ENL_CASES[0])
    for batch in (1, 2):
        x = torch.randn(batch, 16, 12, 20).to(memory_format=layout)
        assert block(x).stride() == x.stride()
        assert block(x, torch.tensor([[12, 20], [3, 7]][-batch:])).stride() == x.stride()
