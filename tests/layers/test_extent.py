"""Blocks on padded maps: each image as if it had come alone, whatever stands beside it."""

import equations
import pytest
import torch
from equations import ENL_CASES, NON_LOCAL_CASES, case_name, randomized, relative_error
from hypothesis import given, settings
from hypothesis import strategies as st

from enl_detectron2.layers import ENLBlock, NonLocalBlock, image_extent, inside, map_extent

pytestmark = pytest.mark.numerical

BLOCKS = [(ENLBlock, equations.enl, options) for options in ENL_CASES]
BLOCKS += [(NonLocalBlock, equations.non_local, options) for options in NON_LOCAL_CASES]
every_block = pytest.mark.parametrize(
    "kind, equation, options", BLOCKS, ids=[case_name(options) for *_, options in BLOCKS]
)
SIZES = [[7, 10], [5, 10], [6, 3], [1, 1]]  # one full, and one of one position


def own_extent():
    return torch.tensor(SIZES)


def padded_map(channels=6):
    torch.manual_seed(1)
    return torch.randn(len(SIZES), channels, 7, 10, dtype=torch.float64)


def in_the_padding(x, extent, value):
    """A copy of x with other values in the padding."""
    return torch.where(inside(extent, x), x, value)


def test_images_end_where_nothing_but_zeros_follows():
    images = torch.zeros(4, 3, 6, 9)
    images[0, :, 2, 3] = -1  # which zeros precede
    images[1, 2, :4, :8] = 1
    images[2] = 1
    assert image_extent(images).tolist() == [[3, 4], [4, 8], [6, 9], [6, 9]]  # all zeros: whole
    assert map_extent(torch.tensor([[1, 8], [9, 16]]), 8).tolist() == [[1, 1], [2, 2]]
    assert inside(torch.tensor([[2, 1]]), torch.zeros(1, 5, 3, 2))[0, 0].tolist() == [
        [True, False],
        [True, False],
        [False, False],
    ]


@every_block
def test_is_the_equations_over_each_images_own_positions(kind, equation, options):
    block, x = randomized(kind(6, **options)), padded_map()
    expected = x.clone()  # which stays in the padding
    for index, (height, width) in enumerate(SIZES):
        own = x[index : index + 1, :, :height, :width]
        expected[index, :, :height, :width] = equation(block, own, **options)[0]
    assert relative_error(block(x, own_extent()), expected) < 1e-10
    channels_last = x.to(memory_format=torch.channels_last)
    assert relative_error(block(channels_last, own_extent()), expected) < 1e-10


@pytest.mark.parametrize("kind", [ENLBlock, NonLocalBlock])
@pytest.mark.parametrize("value", [0.0, -1e4])
@torch.no_grad()
def test_what_stands_in_the_padding_does_not_matter(kind, value):
    block, x = randomized(kind(6)), padded_map()
    other = in_the_padding(x, own_extent(), value)
    output, other_output = block(x, own_extent()), block(other, own_extent())
    left_as_it_was = in_the_padding(other_output, own_extent(), value)
    assert torch.equal(left_as_it_was, other_output)
    expected, actual = (in_the_padding(z, own_extent(), 0.0) for z in (output, other_output))
    assert relative_error(actual, expected) < 1e-12


@pytest.mark.parametrize("kind", [ENLBlock, NonLocalBlock])
def test_an_extent_of_the_whole_map_is_none(kind):
    block, x = randomized(kind(6)), padded_map()
    for height, width in ((7, 10), (700, 800)):  # more than the map, in pixels perhaps
        assert relative_error(block(x, torch.tensor([[height, width]] * len(x))), block(x)) < 1e-12


@pytest.mark.parametrize("extent", [[[7, 10]] * 4, torch.tensor([7, 10])])
def test_an_extent_of_another_form_is_named(extent):
    with pytest.raises(TypeError, match=r"extent must be an integer tensor \(B, 2\)"):
        ENLBlock(6)(torch.randn(4, 6, 7, 10), extent)


@pytest.mark.numerical(gpu=False)
@pytest.mark.parametrize("kind", [ENLBlock, NonLocalBlock])
def test_graphs_hold_for_other_sizes_and_extents(kind):
    block = randomized(kind(6)).eval().requires_grad_(False)
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


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_enl_is_the_explicit_form_however_its_input_is_stored(data):
    batch = data.draw(st.integers(1, 3), "batch")
    height, width = data.draw(st.integers(1, 30), "height"), data.draw(st.integers(1, 30), "width")
    dtype = data.draw(st.sampled_from([torch.float32, torch.float64, torch.bfloat16]), "dtype")
    options = data.draw(st.sampled_from(ENL_CASES), "options")
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
    expected = x.double().clone()
    for index, (rows, columns) in enumerate(extent or [(height, width)] * batch):
        image = x[index : index + 1, :, :rows, :columns]
        expected[index, :, :rows, :columns] = equations.enl(block, image, **options)[0]
    tolerance = {torch.float32: 1e-4, torch.float64: 1e-10, torch.bfloat16: 0.1}[dtype]
    assert relative_error(output, expected) < tolerance


@every_block
@pytest.mark.parametrize("scale", [1e-4, 1e4])
def test_stays_finite_for_small_and_large_inputs(kind, equation, options, scale):
    torch.manual_seed(0)
    block = kind(16, **options)
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter, std=0.25)
    x = (scale * torch.randn(2, 16, 12, 13)).requires_grad_()
    extent = torch.tensor([[9, 13], [12, 5]])
    with torch.autocast(x.device.type, dtype=torch.bfloat16):
        assert torch.isfinite(block(x, extent)).all()
    output = block(x, extent)
    assert torch.isfinite(output).all()
    # On a GPU the gradients of PyTorch's fused attention overflowed for affinities of 1e9.
    fused = options.get("affinity_norm") == "softmax" and not block.multiply
    if not (fused and x.is_cuda and scale == 1e4):
        for gradient in torch.autograd.grad(output.mean(), [x, *block.parameters()]):
            assert torch.isfinite(gradient).all()
