"""Blocks on padded maps: each image as if it had come alone, whatever stands beside it."""

import itertools

import equations
import pytest
import torch
from equations import randomized, relative_error
from hypothesis import given, settings
from hypothesis import strategies as st

from enl_detectron2.layers import ENLBlock, NonLocalBlock

pytestmark = pytest.mark.numerical

ENL_VARIANTS = list(
    itertools.product(["softmax", "mean", "none"], ["none", "tanh"], ["cos_add", "l1_add", "none"])
)
NON_LOCAL_VARIANTS = list(
    itertools.product(["softmax", "mean"], ["none", "l1_mul", "l1_add", "cos_mul", "cos_add"])
)
SIZES = [[7, 10], [5, 10], [6, 3], [1, 1]]  # one full, and one of one position


def enl_options(variant):
    return dict(zip(("phi_norm", "theta_norm", "position"), variant, strict=True))


def non_local_options(variant):
    return dict(zip(("affinity_norm", "position"), variant, strict=True))


def own_extent():
    return torch.tensor(SIZES)


def padded_map(channels=6):
    torch.manual_seed(1)
    return torch.randn(len(SIZES), channels, 7, 10, dtype=torch.float64)


def in_the_padding(x, extent, value):
    """A copy of x with other values in the padding."""
    x = x.clone()
    for image, (height, width) in zip(x, extent.tolist(), strict=True):
        image[:, height:] = value
        image[:, :, width:] = value
    return x


def assert_each_image_as_if_alone(output, x, extent, equation):
    expected = x.clone()  # which stays in the padding
    for index, (height, width) in enumerate(extent.tolist()):
        expected[index, :, :height, :width] = equation(x[index : index + 1, :, :height, :width])[0]
    assert relative_error(output, expected) < 1e-10


@pytest.mark.parametrize("variant", ENL_VARIANTS)
def test_enl_is_the_equations_over_each_images_own_positions(variant):
    options = enl_options(variant)
    block, x = randomized(ENLBlock(6, **options)), padded_map()

    def equation(x):
        return equations.enl(block, x, **options)

    assert_each_image_as_if_alone(block(x, own_extent()), x, own_extent(), equation)
    one = own_extent()[1:2].expand(2, 2)  # the same for all images
    assert_each_image_as_if_alone(block(x[:2], one), x[:2], one, equation)
    channels_last = x.to(memory_format=torch.channels_last)
    with torch.no_grad():
        assert_each_image_as_if_alone(block(channels_last, own_extent()), x, own_extent(), equation)


@pytest.mark.parametrize("variant", NON_LOCAL_VARIANTS)
def test_non_local_is_the_equations_over_each_images_own_positions(variant):
    options = non_local_options(variant)
    block, x = randomized(NonLocalBlock(6, **options)), padded_map()
    assert_each_image_as_if_alone(
        block(x, own_extent()), x, own_extent(), lambda x: equations.non_local(block, x, **options)
    )


@pytest.mark.parametrize("block_class", [ENLBlock, NonLocalBlock])
@pytest.mark.parametrize("value", [0.0, 30.0, -1e4])
@torch.no_grad()
def test_what_stands_in_the_padding_does_not_matter(block_class, value):
    block, x = randomized(block_class(6)), padded_map()
    other = in_the_padding(x, own_extent(), value)
    output, other_output = block(x, own_extent()), block(other, own_extent())
    assert torch.isfinite(other_output).all()
    assert torch.equal(
        in_the_padding(other_output, own_extent(), value), other_output
    )  # left as it was
    expected, actual = (in_the_padding(z, own_extent(), 0.0) for z in (output, other_output))
    assert relative_error(actual, expected) < 1e-12


@pytest.mark.parametrize("block_class", [ENLBlock, NonLocalBlock])
def test_an_extent_of_the_whole_map_is_none(block_class):
    block, x = randomized(block_class(6)), padded_map()
    for height, width in ((7, 10), (700, 800)):  # more than the map, in pixels perhaps
        assert relative_error(block(x, torch.tensor([[height, width]] * len(x))), block(x)) < 1e-12


@pytest.mark.parametrize("block_class", [ENLBlock, NonLocalBlock])
@pytest.mark.parametrize("extent", [[[7, 10]] * 4, torch.tensor([7, 10])])
def test_an_extent_of_another_form_is_named(block_class, extent):
    with pytest.raises(TypeError, match=r"extent must be an integer tensor \(B, 2\)"):
        block_class(6)(torch.randn(4, 6, 7, 10), extent)


@pytest.mark.numerical(gpu=False)
@pytest.mark.parametrize("variant", ENL_VARIANTS)
def test_enl_gradients_are_those_of_the_function(variant):
    block = randomized(ENLBlock(4, num_frequencies=2, **enl_options(variant)))
    x = torch.randn(2, 4, 3, 4, dtype=torch.float64, requires_grad=True)
    function, arguments = equations.as_function(block, x)
    extent = torch.tensor([[3, 2], [2, 4]])
    block_forward = block.forward
    block.forward = lambda x: block_forward(x, extent)
    assert torch.autograd.gradcheck(function, arguments)


@pytest.mark.numerical(gpu=False)
@pytest.mark.parametrize(
    "variant", [("softmax", "none"), ("mean", "cos_mul"), ("softmax", "l1_mul")]
)
def test_non_local_gradients_are_those_of_the_function(variant):
    block = randomized(NonLocalBlock(4, num_frequencies=2, **non_local_options(variant)))
    x = torch.randn(2, 4, 3, 4, dtype=torch.float64, requires_grad=True)
    extent = torch.tensor([[3, 2], [2, 4]])
    assert torch.autograd.gradcheck(lambda x: block(x, extent), (x,))


def test_autocast_agrees_with_float32_to_its_own_accuracy():
    block, x = randomized(ENLBlock(16)).float(), torch.randn(4, 16, 7, 10)
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter, std=0.25)
    with torch.autocast(x.device.type, dtype=torch.bfloat16):
        output = block(x, own_extent())
    assert output.dtype == torch.bfloat16
    assert relative_error(output, block(x, own_extent())) < 0.02


@pytest.mark.numerical(gpu=False)
@pytest.mark.parametrize("block_class", [ENLBlock, NonLocalBlock])
def test_graphs_hold_for_other_sizes_and_extents(block_class):
    block = randomized(block_class(6)).eval().requires_grad_(False)
    x, other = padded_map(), torch.randn(4, 6, 11, 12, dtype=torch.float64)
    graphs = [
        torch.jit.trace(block, (x, own_extent())),
        torch.jit.script(block),
        torch.compile(block, fullgraph=True, backend="aot_eager"),
    ]
    for graph in graphs:
        for map_, extent in ((x, own_extent()), (other, own_extent() + 1)):
            assert relative_error(graph(map_, extent), block(map_, extent)) < 1e-6


STORED = ["contiguous", "channels_last", "every second", "transposed"]


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_enl_is_the_explicit_form_however_its_input_is_stored(data):
    batch = data.draw(st.integers(1, 3), "batch")
    height, width = data.draw(st.integers(1, 40), "height"), data.draw(st.integers(1, 40), "width")
    dtype = data.draw(st.sampled_from([torch.float32, torch.float64, torch.bfloat16]), "dtype")
    options = enl_options(data.draw(st.sampled_from(ENL_VARIANTS), "variant"))
    sizes = st.tuples(st.integers(1, height), st.integers(1, width))
    extent = data.draw(st.none() | st.lists(sizes, min_size=batch, max_size=batch), "extent")
    stored = data.draw(st.sampled_from(STORED), "stored")
    torch.manual_seed(data.draw(st.integers(0, 99), "seed"))

    block = ENLBlock(8, **options)
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    block = block.to(dtype)
    x = torch.randn(batch, 8, height, width).to(dtype)
    if stored == "channels_last":
        x = x.to(memory_format=torch.channels_last)
    elif stored == "every second":
        x = x.new_empty(batch, 16, 2 * height, 3 * width)[:, ::2, ::2, ::3].copy_(x)
    elif stored == "transposed":
        x = x.new_empty(width, height, 8, batch).permute(3, 2, 1, 0).copy_(x)

    output = block(x, None if extent is None else torch.tensor(extent)).double()
    sizes = [(height, width)] * batch if extent is None else extent
    expected = x.double().clone()
    for index, (rows, columns) in enumerate(sizes):
        image = x[index : index + 1, :, :rows, :columns]
        expected[index, :, :rows, :columns] = equations.enl(block, image, **options)[0]
    tolerance = {torch.float32: 1e-4, torch.float64: 1e-10, torch.bfloat16: 0.1}[dtype]
    assert relative_error(output, expected) < tolerance


@pytest.mark.parametrize("scale", [1e-4, 1e-2, 1.0, 1e2, 1e4])
@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize(
    "block",
    [ENLBlock(16, **enl_options(v)) for v in ENL_VARIANTS]
    + [NonLocalBlock(16, **non_local_options(v)) for v in NON_LOCAL_VARIANTS],
    ids=lambda block: f"{type(block).__name__} {block.options()}",
)
def test_stays_finite_for_small_and_large_inputs(block, autocast, scale):
    torch.manual_seed(0)
    block.to(torch.get_default_device())
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter, std=0.25)
    x = (scale * torch.randn(2, 16, 12, 13)).requires_grad_()
    for extent in (None, torch.tensor([[9, 13], [12, 5]])):
        block.zero_grad()
        x.grad = None
        with torch.autocast(x.device.type, dtype=torch.bfloat16, enabled=autocast):
            output = block(x, extent)
        assert torch.isfinite(output).all()
        # On a GPU the gradients of PyTorch's fused attention overflowed for affinities of 1e9.
        fused = isinstance(block, NonLocalBlock) and block.softmax_rows and not block.multiply
        if not (fused and x.is_cuda and scale == 1e4):
            output.float().mean().backward()
            assert torch.isfinite(x.grad).all()
            assert all(torch.isfinite(parameter.grad).all() for parameter in block.parameters())
        with torch.no_grad(), torch.autocast(x.device.type, dtype=torch.bfloat16, enabled=autocast):
            assert torch.isfinite(block(x, extent)).all()
