import equations
import pytest
import torch
from equations import randomized, relative_error

from enl_detectron2.layers import ENLBlock, NonLocalBlock

pytestmark = pytest.mark.numerical

VARIANTS = [
    {},
    {"position": "cos_add"},
    {"position": "l1_mul", "position_options": {"scale": 3.0}},
    {"affinity_norm": "mean"},
    {"affinity_norm": "mean", "position": "l1_add"},
    {"affinity_norm": "mean", "position": "cos_mul", "position_options": {"num_frequencies": 2}},
]
EXTENT = torch.tensor([[7, 10], [5, 10], [6, 3], [1, 1]])


@pytest.mark.parametrize("extent", [None, EXTENT], ids=["whole", "padded"])
@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_equals_the_written_out_equations(options, extent):
    block = randomized(NonLocalBlock(6, **options))
    x = torch.randn(4, 6, 7, 10, dtype=torch.float64)
    for layout in (torch.contiguous_format, torch.channels_last):
        z = block(x.to(memory_format=layout), extent)
        assert relative_error(z, equations.expected(block, x, extent)) < 1e-10


def test_the_product_is_associative_as_the_papers_say():
    explicit = randomized(NonLocalBlock(6, affinity_norm="mean", position="cos_add"))
    efficient = ENLBlock(6, phi_norm="mean").double()
    efficient.load_state_dict(explicit.state_dict())
    x = torch.randn(2, 6, 9, 14, dtype=torch.float64)
    assert relative_error(efficient(x), explicit(x)) < 1e-12


@pytest.mark.numerical(gpu=False)
@pytest.mark.parametrize("options", [{}, VARIANTS[2], VARIANTS[5]], ids=str)
def test_gradients_are_those_of_the_function(options):
    block = randomized(NonLocalBlock(2, **options))
    x = torch.randn(2, 2, 3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        *equations.as_function(block, x, torch.tensor([[3, 2], [2, 4]]))
    )


class LargestStorage(torch.utils._python_dispatch.TorchDispatchMode):
    """Notes the largest number of elements that any operation returns."""

    elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for output in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(output, torch.Tensor):
                self.elements = max(self.elements, output.numel())
        return result


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_forms_the_affinity_only_where_it_has_to(options):
    block = NonLocalBlock(8, **options)  # a GPU's fused attention wants D to be a multiple of 4
    with LargestStorage() as largest, torch.no_grad():
        block(torch.randn(1, 8, 20, 20))
    needs_affinity = block.affinity_norm == "mean" or block.multiply
    assert (largest.elements >= 400**2) == needs_affinity
