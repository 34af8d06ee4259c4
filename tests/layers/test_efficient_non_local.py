import equations
import pytest
import torch
from equations import randomized, relative_error
from hypothesis import given, settings
from hypothesis import strategies as st

from enl_detectron2.layers import ENLBlock

pytestmark = pytest.mark.numerical

# The four that the papers train, and what normalises nothing; each term, and its options.
COS, L1 = {"position_options": {"num_frequencies": 4}}, {"position": "l1_add"}
VARIANTS = [
    {},
    {"theta_norm": "tanh", **COS},
    {"phi_norm": "mean", **L1, "position_options": {"scale": 3.0}},
    {"phi_norm": "mean", "theta_norm": "tanh", **L1},
    {"phi_norm": "none", "position": "none"},
    {"position": "none"},
]
EXTENT = torch.tensor([[7, 10], [5, 10], [6, 3], [1, 1]])  # one full, and one of one position
LAYOUTS = [torch.contiguous_format, torch.channels_last]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("extent", [None, EXTENT], ids=["whole", "padded"])
@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_equals_the_written_out_equations(options, extent, layout):
    block = randomized(ENLBlock(6, **options))
    x = torch.randn(4, 6, 7, 10, dtype=torch.float64).to(memory_format=layout)
    z = block(x, extent)
    assert relative_error(z, equations.expected(block, x, extent)) < 1e-10
    assert z.stride() == x.stride()  # by which PyTorch chooses the layout of what follows


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_equals_them_at_any_size_however_the_input_is_stored(data):
    batch = data.draw(st.integers(1, 3), "batch")
    height, width = data.draw(st.integers(1, 30), "height"), data.draw(st.integers(1, 30), "width")
    dtype = data.draw(st.sampled_from([torch.float32, torch.float64, torch.bfloat16]), "dtype")
    sizes = st.lists(
        st.tuples(st.integers(1, height), st.integers(1, width)), min_size=batch, max_size=batch
    )
    extent = data.draw(st.none() | sizes.map(torch.tensor), "extent")
    block = ENLBlock(8, **data.draw(st.sampled_from(VARIANTS), "options"))
    block = randomized(block, 0.3).to(dtype)
    x = torch.randn(batch, 8, height, width, dtype=dtype)
    stored = data.draw(st.sampled_from(["as it is", "every second", "transposed"]), "stored")
    if stored == "every second":
        x = x.new_empty(batch, 16, 2 * height, 3 * width)[:, ::2, ::2, ::3].copy_(x)
    elif stored == "transposed":
        x = x.new_empty(width, height, 8, batch).permute(3, 2, 1, 0).copy_(x)
    tolerance = {torch.float32: 1e-4, torch.float64: 1e-10, torch.bfloat16: 0.1}[dtype]
    output = block(x, extent)
    assert relative_error(output, equations.expected(block, x, extent)) < tolerance


@pytest.mark.numerical(gpu=False)
@pytest.mark.parametrize(
    "options, extent",
    [
        ({}, [[3, 2], [2, 4]]),
        ({"phi_norm": "mean", "theta_norm": "tanh", **L1}, None),
        ({"phi_norm": "none", "position": "none"}, [[3, 2], [2, 4]]),
    ],
)
def test_gradients_are_those_of_the_function(options, extent):
    block = randomized(ENLBlock(2, **options))
    x = torch.randn(2, 2, 3, 4, dtype=torch.float64, requires_grad=True)
    extent = None if extent is None else torch.tensor(extent)
    assert torch.autograd.gradcheck(*equations.as_function(block, x, extent))


@pytest.mark.parametrize("channels, expected", [(256, 131_712), (1024, 2_099_712)])
def test_has_the_papers_number_of_parameters(channels, expected):
    assert sum(parameter.numel() for parameter in ENLBlock(channels).parameters()) == expected


def test_training_keeps_little_for_the_backward_pass():
    """φ̂, θ and out's input, half an input each; nothing of N×N."""
    x = torch.randn(1, 64, 60, 80).requires_grad_()
    block, kept = ENLBlock(64), {}
    with torch.autograd.graph.saved_tensors_hooks(
        lambda tensor: kept.update({tensor.untyped_storage().data_ptr(): tensor}) or tensor,
        lambda tensor: tensor,
    ):
        block(x, torch.tensor([[60, 77]])).sum().backward()
    kept.pop(x.untyped_storage().data_ptr())
    size = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    assert size <= 1.1 * x.untyped_storage().nbytes()


def test_a_call_leaves_nothing_on_the_block():
    # DataParallel calls shallow copies of a module, whose state they share.
    block = ENLBlock(16)
    before = {name: dict(vars(module)) for name, module in block.named_modules()}
    block(torch.randn(2, 16, 12, 20)).sum().backward()
    assert {name: dict(vars(module)) for name, module in block.named_modules()} == before
