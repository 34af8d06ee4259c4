import itertools

import equations
import pytest
import torch
from equations import randomized, relative_error

from enl_detectron2.layers import ENLBlock, InvalidOption, NonLocalBlock

pytestmark = pytest.mark.numerical

AFFINITY_NORMS = ["softmax", "mean"]
POSITIONS = ["none", "l1_mul", "l1_add", "cos_mul", "cos_add"]
VARIANTS = list(itertools.product(AFFINITY_NORMS, POSITIONS))
SIZES = [(1, 1), (1, 6), (5, 1), (3, 8), (11, 13)]


@pytest.mark.parametrize("affinity_norm, position", VARIANTS)
@pytest.mark.parametrize("height, width", SIZES)
def test_equals_the_written_out_equations(affinity_norm, position, height, width):
    options = {"affinity_norm": affinity_norm, "position": position}
    block = randomized(NonLocalBlock(6, **options))
    x = torch.randn(2, 6, height, width, dtype=torch.float64)
    assert relative_error(block(x), equations.non_local(block, x, **options)) < 1e-10


@pytest.mark.parametrize("position", ["cos_mul", "l1_mul"])
def test_position_options_reach_the_equations(position):
    options = {"position": position, "num_frequencies": 2, "l1_scale": 3.0}
    block = randomized(NonLocalBlock(6, **options))
    x = torch.randn(1, 6, 6, 7, dtype=torch.float64)
    expected = equations.non_local(block, x, affinity_norm="softmax", **options)
    assert relative_error(block(x), expected) < 1e-10


@pytest.mark.parametrize("position", ["none", "cos_add", "l1_add"])
def test_the_product_is_associative_as_the_papers_say(position):
    explicit = randomized(NonLocalBlock(6, affinity_norm="mean", position=position))
    efficient = ENLBlock(6, phi_norm="mean", position=position).double()
    efficient.load_state_dict(explicit.state_dict())
    x = torch.randn(2, 6, 9, 14, dtype=torch.float64)
    assert relative_error(efficient(x), explicit(x)) < 1e-12


@pytest.mark.parametrize("affinity_norm, position", VARIANTS)
def test_memory_layout_does_not_matter(affinity_norm, position):
    block = randomized(NonLocalBlock(6, affinity_norm=affinity_norm, position=position))
    x = torch.randn(2, 6, 7, 5, dtype=torch.float64)
    channels_last = x.to(memory_format=torch.channels_last)
    assert not channels_last.is_contiguous()
    assert relative_error(block(channels_last), block(x)) < 1e-12


@pytest.mark.numerical(gpu=False)
@pytest.mark.parametrize("affinity_norm, position", VARIANTS)
def test_gradients_are_those_of_the_function(affinity_norm, position):
    block = randomized(
        NonLocalBlock(4, affinity_norm=affinity_norm, position=position, num_frequencies=2)
    )
    x = torch.randn(2, 4, 3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(*equations.as_function(block, x))


class LargestStorage(torch.utils._python_dispatch.TorchDispatchMode):
    """Notes the largest number of elements that any operation returns."""

    def __init__(self):
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for output in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(output, torch.Tensor):
                self.elements = max(self.elements, output.numel())
        return result


@pytest.mark.parametrize("affinity_norm, position", VARIANTS)
def test_forms_the_affinity_only_where_it_has_to(affinity_norm, position):
    # A GPU's fused attention wants D to be a multiple of 4.
    block = NonLocalBlock(8, affinity_norm=affinity_norm, position=position)
    positions = 20 * 20
    with LargestStorage() as largest, torch.no_grad():
        block(torch.randn(1, 8, 20, 20))
    needs_affinity = affinity_norm == "mean" or position.endswith("_mul")
    assert (largest.elements >= positions**2) == needs_affinity


@pytest.mark.parametrize("channels, expected", [(256, 131_712), (1024, 2_099_712)])
def test_has_the_papers_number_of_parameters(channels, expected):
    assert sum(parameter.numel() for parameter in NonLocalBlock(channels).parameters()) == expected


@pytest.mark.parametrize(
    "option, value, legal",
    [
        ("affinity_norm", "none", "'softmax', 'mean'"),
        ("position", "cos", "'cos_add', 'cos_mul', .*'none'"),
    ],
)
def test_a_wrong_option_is_named_with_what_may_be(option, value, legal):
    with pytest.raises(InvalidOption, match=f"{option} must be one of {legal}, got {value!r}"):
        NonLocalBlock(8, **{option: value})
