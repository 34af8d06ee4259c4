import equations
import pytest
import torch
from equations import NON_LOCAL_CASES, case_name, randomized, relative_error

from enl_detectron2.layers import ENLBlock, InvalidOption, NonLocalBlock

pytestmark = pytest.mark.numerical
every_case = pytest.mark.parametrize("options", NON_LOCAL_CASES, ids=case_name)


@every_case
@pytest.mark.parametrize("height, width", [(1, 1), (5, 1), (11, 13)])
def test_equals_the_written_out_equations(options, height, width):
    block = randomized(NonLocalBlock(6, **options))
    x = torch.randn(2, 6, height, width, dtype=torch.float64)
    expected = equations.non_local(block, x, **options)
    assert relative_error(block(x), expected) < 1e-10
    channels_last = x.to(memory_format=torch.channels_last)
    assert relative_error(block(channels_last), expected) < 1e-10


def test_position_options_reach_the_equations():
    options = {"position": "cos_mul", "position_options": {"num_frequencies": 2}}
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


@pytest.mark.numerical(gpu=False)
@every_case
@pytest.mark.parametrize("extent", [None, [[3, 2], [2, 4]]], ids=["whole", "padded"])
def test_gradients_are_those_of_the_function(options, extent):
    block = randomized(NonLocalBlock(4, position_options={"num_frequencies": 2}, **options))
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


@every_case
def test_forms_the_affinity_only_where_it_has_to(options):
    # A GPU's fused attention wants D to be a multiple of 4.
    block, positions = NonLocalBlock(8, **options), 20 * 20
    with LargestStorage() as largest, torch.no_grad():
        block(torch.randn(1, 8, 20, 20))
    needs_affinity = options["affinity_norm"] == "mean" or options["position"].endswith("_mul")
    assert (largest.elements >= positions**2) == needs_affinity


def test_a_wrong_option_is_named_with_what_may_be():
    with pytest.raises(InvalidOption, match="affinity_norm must be one of 'softmax', 'mean', got"):
        NonLocalBlock(8, affinity_norm="none")
    with pytest.raises(InvalidOption, match="position must be one of 'cos_add', 'cos_mul', .*none"):
        NonLocalBlock(8, position="cos")
