import inspect
import itertools

import equations
import pytest
import torch
from equations import randomized, relative_error

from enl_detectron2.layers import ENLBlock, InvalidOption, NonLocalBlock

pytestmark = pytest.mark.numerical

PHI_NORMS = ["softmax", "mean", "none"]
THETA_NORMS = ["none", "tanh"]
POSITIONS = ["cos_add", "l1_add", "none"]
VARIANTS = list(itertools.product(PHI_NORMS, THETA_NORMS, POSITIONS))
SIZES = [(1, 1), (1, 6), (5, 1), (3, 8), (7, 9), (11, 13)]


@pytest.mark.parametrize("phi_norm, theta_norm, position", VARIANTS)
@pytest.mark.parametrize("height, width", SIZES)
def test_equals_the_written_out_equations(phi_norm, theta_norm, position, height, width):
    options = {"phi_norm": phi_norm, "theta_norm": theta_norm, "position": position}
    block = randomized(ENLBlock(6, **options))
    x = torch.randn(2, 6, height, width, dtype=torch.float64)
    expected = equations.enl(block, x, **options)
    assert relative_error(block(x), expected) < 1e-10


@pytest.mark.parametrize(
    "num_frequencies, l1_scale, position", [(2, 50, "cos_add"), (9, 3, "l1_add")]
)
def test_position_options_reach_the_equations(num_frequencies, l1_scale, position):
    options = {"position": position, "num_frequencies": num_frequencies, "l1_scale": l1_scale}
    block = randomized(ENLBlock(6, **options))
    x = torch.randn(1, 6, 6, 7, dtype=torch.float64)
    expected = equations.enl(block, x, phi_norm="softmax", theta_norm="none", **options)
    assert relative_error(block(x), expected) < 1e-10


@pytest.mark.parametrize("phi_norm, theta_norm, position", VARIANTS)
def test_memory_layout_does_not_matter(phi_norm, theta_norm, position):
    block = randomized(ENLBlock(6, phi_norm=phi_norm, theta_norm=theta_norm, position=position))
    x = torch.randn(2, 6, 7, 5, dtype=torch.float64)
    expected = block(x)
    channels_last = x.to(memory_format=torch.channels_last)
    strided = torch.randn(2, 6, 14, 10, dtype=torch.float64)[:, :, ::2, ::2].copy_(x)
    assert not channels_last.is_contiguous() and not strided.is_contiguous()
    assert relative_error(block(channels_last), expected) < 1e-12
    assert relative_error(block(strided), expected) < 1e-12


def test_images_of_a_batch_do_not_see_each_other():
    block = randomized(ENLBlock(6))
    x = torch.randn(3, 6, 8, 9, dtype=torch.float64)
    apart = torch.cat([block(image) for image in x.split(1)])
    assert relative_error(block(x), apart) < 1e-12


def test_every_position_reaches_every_other():
    block = randomized(ENLBlock(6, position="none"))
    x = torch.randn(1, 6, 10, 12, dtype=torch.float64)
    changed = x.clone()
    changed[:, :, 0, 0] += 1
    assert ((block(changed) - block(x)).abs().sum(dim=1) > 0).all()


@pytest.mark.numerical(gpu=False)
@pytest.mark.parametrize("phi_norm, theta_norm, position", VARIANTS)
def test_gradients_are_those_of_the_function(phi_norm, theta_norm, position):
    options = {"phi_norm": phi_norm, "theta_norm": theta_norm, "position": position}
    block = randomized(ENLBlock(4, num_frequencies=2, **options))
    x = torch.randn(2, 4, 3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(*equations.as_function(block, x))


@pytest.mark.parametrize("channels, expected", [(256, 131_712), (1024, 2_099_712)])
def test_has_the_papers_number_of_parameters(channels, expected):
    assert sum(parameter.numel() for parameter in ENLBlock(channels).parameters()) == expected


def test_projections_have_the_inner_width():
    block = ENLBlock(10, 3)
    for projection in (block.theta, block.phi, block.g):
        assert (projection.in_channels, projection.out_channels) == (10, 3)
    assert (block.out.in_channels, block.out.out_channels) == (3, 10)


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


@pytest.mark.parametrize("kind", [ENLBlock, NonLocalBlock])
def test_starts_with_the_given_deviation(kind):
    block = kind(512, init_std=0.125)
    for projection in (block.theta, block.phi, block.g, block.out):
        assert projection.weight.std().item() == pytest.approx(0.125, rel=0.02)
        assert not projection.bias.any()
    for std in (0.0, -1.0, float("nan")):
        with pytest.raises(InvalidOption, match="init_std must be a number above 0, got "):
            kind(512, init_std=std)


@pytest.mark.parametrize(
    "option, value, legal",
    [
        ("phi_norm", "tanh", "'softmax', 'mean', 'none'"),
        ("theta_norm", "softmax", "'none', 'tanh'"),
        ("position", "cos_mul", "'cos_add', .*'none'"),
        ("num_frequencies", 0, "at least 1"),
        ("inner_channels", 0, "at least 1"),
    ],
)
def test_a_wrong_option_is_named_with_what_may_be(option, value, legal):
    with pytest.raises(InvalidOption, match=f"{option} must be .*{legal}, got {value!r}") as error:
        ENLBlock(8, **{option: value})
    assert error.value.option == option


def block_of_unit_size(variant, channels=16):
    """A block whose output is about as large as its input."""
    block = ENLBlock(channels, **dict(zip(("phi_norm", "theta_norm", "position"), variant)))
    torch.manual_seed(0)
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter, std=channels**-0.5)
    return block


def error_of_equations(output, block, x):
    options = {name: getattr(block, name) for name in ("phi_norm", "theta_norm", "position")}
    return relative_error(output.double(), equations.enl(block, x, **options))


@pytest.mark.parametrize("variant", VARIANTS)
def test_each_dtype_is_as_exact_as_it_can_be(variant):
    block, x = block_of_unit_size(variant), torch.randn(2, 16, 25, 34)
    assert error_of_equations(block(x), block, x) < 1e-5
    with torch.autocast(x.device.type, dtype=torch.bfloat16):
        output = block(x)
    assert output.dtype == torch.bfloat16
    assert error_of_equations(output, block, x) < 0.02  # 2^-8 is one rounding
    block, x = block.bfloat16(), x.bfloat16()
    assert block(x).dtype == torch.bfloat16
    assert error_of_equations(block(x), block, x) < 0.03


def test_autocast_trains():
    block, x = block_of_unit_size(VARIANTS[0]), torch.randn(2, 16, 12, 13, requires_grad=True)
    block(x).sum().backward()
    exact = [x.grad, *(projection.weight.grad for projection in (block.theta, block.g, block.out))]
    exact = [gradient.clone() for gradient in exact]
    x.grad = None
    block.zero_grad()
    with torch.autocast(x.device.type, dtype=torch.bfloat16):
        block(x).sum().backward()
    rounded = [
        x.grad,
        *(projection.weight.grad for projection in (block.theta, block.g, block.out)),
    ]
    for one, other in zip(rounded, exact, strict=True):
        assert relative_error(one, other) < 0.03


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("extent", [None, [[60, 77]]])
@pytest.mark.parametrize("variant", [("softmax", "none", "cos_add"), ("mean", "tanh", "none")])
def test_training_keeps_little_for_the_backward_pass(variant, extent, layout):
    block = block_of_unit_size(variant, channels=64)
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
@pytest.mark.parametrize("variant", VARIANTS)
def test_the_output_has_the_layout_of_the_input(variant, layout, batch):
    """To the strides, by which PyTorch chooses the layout of what follows."""
    block = block_of_unit_size(variant)
    x = torch.randn(batch, 16, 12, 20).to(memory_format=layout)
    assert block(x).stride() == x.stride()
    assert block(x, torch.tensor([[12, 20], [3, 7]][-batch:])).stride() == x.stride()


def test_a_call_leaves_nothing_on_the_block():
    # DataParallel calls shallow copies of a module, whose state they share.
    block = block_of_unit_size(VARIANTS[0])
    before = {name: dict(vars(module)) for name, module in block.named_modules()}
    block(torch.randn(2, 16, 12, 20)).sum().backward()
    assert {name: dict(vars(module)) for name, module in block.named_modules()} == before


@pytest.mark.parametrize("kind", [ENLBlock, NonLocalBlock])
def test_options_are_those_it_was_made_with(kind):
    assert kind(8).options() == {
        name: parameter.default if name != "inner_channels" else 4
        for name, parameter in list(inspect.signature(kind).parameters.items())[1:]
    }
    block = kind(8, 3, position="l1_add", l1_scale=7)
    options = block.options()
    assert (options["inner_channels"], options["position"], options["l1_scale"]) == (3, "l1_add", 7)
    assert kind(8, **options).options() == options
    assert "position=l1_add" in repr(block)


VIEWS = {"view", "_unsafe_view", "transpose", "unsqueeze", "slice", "select", "expand"}
VIEWS |= {"permute", "numpy_T", "split", "reshape", "view_as", "alias", "detach", "t"}


class Operations(torch.utils._python_dispatch.TorchDispatchMode):
    """Counts those that do more than look at a tensor in another way."""

    number = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.number += function.overloadpacket.__name__ not in VIEWS
        return function(*args, **(kwargs or {}))


@pytest.mark.numerical(gpu=False)
@pytest.mark.parametrize("extent, most", [(None, 55), ([[20, 30]], 70)])
def test_a_gpu_is_asked_for_few_operations(extent, most):
    """It takes as long to be asked for one as to do it; the position term once took 75 more."""
    block, x = block_of_unit_size(("softmax", "none", "cos_add")), torch.randn(1, 16, 25, 34)
    with torch.no_grad(), Operations() as operations:
        block(x, None if extent is None else torch.tensor(extent))
    assert 20 < operations.number <= most
