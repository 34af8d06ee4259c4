"""What PyTorch does to a network's layers, it does to the blocks': they are called as modules."""

import copy
import functools
import subprocess
import sys
from pathlib import Path

import equations
import pytest
import torch
import torch.distributed as dist
from equations import ENL_CASES, case_name, randomized, relative_error
from fvcore.nn import FlopCountAnalysis
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed import fsdp
from torch.nn.utils import parametrizations, parametrize, prune
from torch.utils.checkpoint import checkpoint

from enl_detectron2.layers import ENLBlock, NonLocalBlock

PROJECTIONS = ["theta", "phi", "g", "out"]
SIZE = (7, 10)
EXTENT = torch.tensor([[7, 10], [4, 6]])


def enl(options, channels=6):
    return randomized(ENLBlock(channels, **options))


def a_map(channels=6, **options):
    torch.manual_seed(1)
    return torch.randn(2, channels, *SIZE, dtype=torch.float64, **options)


class LowRank(nn.Module):
    """A layer beside a trained low-rank one, as LoRA puts it."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer.requires_grad_(False)
        self.down = nn.Conv2d(layer.in_channels, 2, 1, bias=False).double()
        self.up = nn.Conv2d(2, layer.out_channels, 1, bias=False).double()

    def forward(self, x):
        return self.layer(x) + self.up(self.down(x))

    def merged(self):
        layer = copy.deepcopy(self.layer)
        with torch.no_grad():
            layer.weight += torch.einsum(
                "oi,ic->oc", self.up.weight[:, :, 0, 0], self.down.weight[:, :, 0, 0]
            )[:, :, None, None]
        return layer


@pytest.mark.parametrize("extent", [None, EXTENT], ids=["whole", "padded"])
@pytest.mark.parametrize("projection", PROJECTIONS)
@pytest.mark.parametrize("options", [ENL_CASES[0], ENL_CASES[3]], ids=case_name)
def test_an_adapter_has_its_effect_and_its_gradient(options, projection, extent):
    block, x = enl(options), a_map()
    before = block(x, extent)
    adapter = LowRank(getattr(block, projection))
    setattr(block, projection, adapter)
    after = block(x, extent)
    assert relative_error(after, before) > 1e-4
    after.square().sum().backward()
    assert adapter.up.weight.grad.abs().max() > 1e-8 and adapter.down.weight.grad.abs().max() > 1e-8
    setattr(block, projection, adapter.merged())
    assert relative_error(block(x, extent), after) < 1e-10


@pytest.mark.parametrize("projection", PROJECTIONS)
@pytest.mark.parametrize("make", [lambda: enl(ENL_CASES[0]), lambda: randomized(NonLocalBlock(6))])
def test_pruned_layers_train_and_load(make, projection):
    block, x = make(), a_map()
    prune.random_unstructured(getattr(block, projection), "weight", amount=0.5)
    optimizer = torch.optim.SGD(block.parameters(), lr=1e-4)
    for _ in range(3):
        optimizer.zero_grad()
        block(x).square().mean().backward()
        optimizer.step()
    other = make()
    prune.identity(getattr(other, projection), "weight")
    other.load_state_dict(block.state_dict())
    assert torch.equal(other(x), block(x))
    prune.remove(getattr(block, projection), "weight")
    assert relative_error(other(x), block(x)) < 1e-12


@pytest.mark.parametrize("projection", PROJECTIONS)
@pytest.mark.parametrize("apply", [parametrizations.weight_norm, parametrizations.spectral_norm])
def test_parametrized_layers_are_what_is_computed(apply, projection):
    block, x = enl(ENL_CASES[0]).eval(), a_map()
    layer = getattr(block, projection)
    apply(layer)
    before = block(x)
    before.square().sum().backward()
    original = next(iter(layer.parametrizations.weight.parameters()))
    assert original.grad.abs().max() > 1e-8
    with torch.no_grad():
        original.mul_(1.5)
        layer.bias.add_(0.5)
    parametrize.remove_parametrizations(layer, "weight")
    assert relative_error(block(x), equations_of(block, x)) < 1e-10


def equations_of(block, x):
    names = ("phi_norm", "theta_norm", "position")
    return equations.enl(block, x, **{name: getattr(block, name) for name in names})


@pytest.mark.parametrize("extent", [None, EXTENT], ids=["whole", "padded"])
@pytest.mark.parametrize(
    "block",
    [enl(ENL_CASES[0]), enl(ENL_CASES[5]), randomized(NonLocalBlock(6))],
    ids=lambda block: type(block).__name__,
)
def test_hooks_of_every_layer_fire_once_and_see_finite_values(block, extent):
    seen = {"forward": [], "backward": []}
    for name in PROJECTIONS:
        layer = getattr(block, name)

        def forward(module, args, output, name=name):
            seen["forward"].append(name)
            assert torch.isfinite(output).all()

        def backward(module, into, out_of, name=name):
            seen["backward"].append(name)
            assert all(torch.isfinite(gradient).all() for gradient in out_of)

        layer.register_forward_hook(forward)
        layer.register_full_backward_hook(backward)
    block(a_map(requires_grad=True), extent).sum().backward()
    assert sorted(seen["forward"]) == sorted(seen["backward"]) == sorted(PROJECTIONS)


@pytest.mark.parametrize("extent", [None, EXTENT], ids=["whole", "padded"])
def test_a_layer_may_be_followed_by_another(extent):
    block, x = enl(ENL_CASES[0]), a_map(requires_grad=True)
    block.phi = nn.Sequential(block.phi, nn.ReLU(inplace=True))
    captured = []
    block.phi.register_forward_hook(lambda module, args, output: captured.append(output))
    assert torch.autograd.gradcheck(lambda x: block(x, extent), (x[:, :, :3, :4],), fast_mode=True)
    assert all((output >= 0).all() for output in captured)


@pytest.fixture
def one_process():
    """A group of this process alone, for what PyTorch distributes over several."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield dist.device_mesh.init_device_mesh("cpu", (1,))
    dist.destroy_process_group()


@pytest.mark.skipif(not hasattr(fsdp, "fully_shard"), reason="needs PyTorch 2.6")
@pytest.mark.parametrize("extent", [None, EXTENT], ids=["whole", "padded"])
def test_layers_may_be_sharded(one_process, extent):
    """A sharded layer has its weight only while it is called."""
    block, x = enl(ENL_CASES[0]), a_map()
    expected = block(x, extent)
    expected.square().sum().backward()
    gradients = {name: parameter.grad for name, parameter in block.named_parameters()}
    block.zero_grad()
    for name in PROJECTIONS:
        fsdp.fully_shard(getattr(block, name), mesh=one_process)
    output = block(x, extent)
    assert torch.equal(output, expected)
    output.square().sum().backward()
    for name, parameter in block.named_parameters():
        assert torch.equal(parameter.grad.full_tensor(), gradients[name]), name


@pytest.mark.parametrize("extent", [None, EXTENT], ids=["whole", "padded"])
def test_activation_checkpointing(extent):
    block, x = enl(ENL_CASES[0]), a_map(requires_grad=True)
    (expected,) = torch.autograd.grad(block(x, extent).square().sum(), x)
    output = checkpoint(block, x, extent, use_reentrant=False)
    assert torch.equal(torch.autograd.grad(output.square().sum(), x)[0], expected)


def test_fvcore_counts_the_multiply_adds():
    channels, inner, tokens, positions = 16, 8, 8 + 81, SIZE[0] * SIZE[1]
    block = ENLBlock(channels)
    count = FlopCountAnalysis(block, torch.randn(1, channels, *SIZE))
    count.unsupported_ops_warnings(False)
    by_module = count.by_module()
    assert by_module["theta"] == by_module["phi"] == channels * inner * positions
    assert by_module["g"] == channels * inner * tokens
    assert by_module["out"] == channels * inner * (tokens + 1)  # and a token of zeros
    # x φ̂ᵀ and carried θ, beside what the position term needs.
    assert by_module[""] > 4 * channels * inner * positions


@pytest.mark.parametrize("extent", [None, EXTENT], ids=["whole", "padded"])
@pytest.mark.parametrize("make", [lambda v=v: enl(v) for v in ENL_CASES[:3]])
def test_fake_and_meta_tensors_leave_nothing_behind(make, extent):
    block, x = make(), a_map()
    with FakeTensorMode() as mode:
        fake = ENLBlock(6, **block.options())
        output = fake(
            mode.from_tensor(x).float(), None if extent is None else mode.from_tensor(extent)
        )
        assert output.shape == x.shape and output.dtype == torch.float32
    expected = block(x, extent)  # a real call of the same size
    assert torch.isfinite(expected).all()
    meta = copy.deepcopy(block).to("meta")
    output = meta(x.to("meta"), None if extent is None else extent.to("meta"))
    assert output.shape == x.shape and output.is_meta


def transforms():
    def vmap(function, x):
        stacked = torch.stack([x, 2 * x])
        return torch.vmap(function)(stacked), torch.stack([function(x), function(2 * x)])

    def jvp(function, x):
        tangent, step = torch.randn_like(x), 1e-6
        derivative = torch.func.jvp(function, (x,), (tangent,))[1]
        return derivative, (function(x + step * tangent) - function(x - step * tangent)) / (
            2 * step
        )

    def grad(function, x):
        by_autograd = x.clone().requires_grad_()
        function(by_autograd).square().sum().backward()
        return torch.func.grad(lambda x: function(x).square().sum())(x), by_autograd.grad

    def hessian_vector(function, x):
        def gradient(x):
            x = x.requires_grad_()
            return torch.autograd.grad(function(x).square().sum(), x, create_graph=True)[0]

        x = x.clone().requires_grad_()
        direction, step = torch.randn_like(x), 1e-5
        (product,) = torch.autograd.grad((gradient(x) * direction).sum(), x)
        there, here = (gradient(x.detach() + s * direction).detach() for s in (step, -step))
        return product, (there - here) / (2 * step)

    def script(function, x):
        return torch.jit.script(function.block)(x, function.extent), function(x)

    def traced(function, x):
        inputs = (x,) if function.extent is None else (x, function.extent)
        graph = torch.jit.trace(function.block, inputs)
        other = torch.randn(3, 6, 9, 8, dtype=torch.float64)
        if function.extent is None:
            return graph(other), function.block(other)
        extent = torch.tensor([[9, 8], [2, 3], [5, 8]])
        return graph(other, extent), function.block(other, extent)

    def exported(function, x):
        inputs = (x,) if function.extent is None else (x, function.extent)
        return torch.export.export(function.block, inputs).module()(*inputs), function(x)

    def compiled(function, x):
        torch.compiler.reset()  # PyTorch recompiles one code for eight modules at most
        graph = torch.compile(function, fullgraph=True, backend="aot_eager")
        return graph(x), function(x)

    return locals()


class Applied(nn.Module):
    """The block as a function of the map."""

    def __init__(self, block, extent):
        super().__init__()
        self.block, self.extent = block, extent

    def forward(self, x):
        return self.block(x, self.extent)


@pytest.mark.parametrize("extent", [None, EXTENT], ids=["whole", "padded"])
@pytest.mark.parametrize(
    "block",
    [
        enl(ENL_CASES[0]),
        enl(ENL_CASES[1]),
        enl(ENL_CASES[5]),
        randomized(NonLocalBlock(6, affinity_norm="mean", position="cos_mul")),
        randomized(NonLocalBlock(6, position="cos_add")),
    ],
    ids=["softmax cos", "tanh l1", "none l1", "NL mean cos_mul", "NL softmax cos_add"],
)
@pytest.mark.parametrize("transform", transforms())
def test_functions_of_the_block(transform, block, extent):
    fused_attention = block.extra_repr().count("softmax, position=cos_add") and isinstance(
        block, NonLocalBlock
    )
    if transform in ("jvp", "hessian_vector") and fused_attention:
        pytest.skip("PyTorch's fused attention has no such derivative on the CPU")
    function = Applied(block.requires_grad_(transform == "grad"), extent)
    actual, expected = transforms()[transform](function, a_map())
    tolerance = 1e-5 if transform in ("jvp", "hessian_vector") else 1e-10
    assert relative_error(actual, expected) < tolerance


@pytest.mark.parametrize("block", [ENLBlock(6), NonLocalBlock(6, position="cos_mul")])
def test_a_batch_of_no_images(block):
    for extent in (None, torch.zeros(0, 2, dtype=torch.int64)):
        assert block(torch.randn(0, 6, 5, 7), extent).shape == (0, 6, 5, 7)


@pytest.mark.parametrize(
    "missing", ["detectron2 fvcore yacs omegaconf pycocotools", "fvcore"], ids=["all", "half"]
)
def test_needs_nothing_but_pytorch(missing):
    """``from enl_detectron2.layers import ENLBlock`` where detectron2 is not installed, or half."""
    script = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in sys.argv[1].split():
            raise ModuleNotFoundError(name, name=name)

sys.meta_path.insert(0, Blocked())
import torch
from enl_detectron2.layers import ENLBlock
print(tuple(ENLBlock(8)(torch.randn(1, 8, 5, 6)).shape))
"""
    root = str(Path(__file__).parents[2])
    command = [sys.executable, "-c", script, missing]
    done = subprocess.run(command, capture_output=True, text=True, cwd=root)
    assert done.stdout == "(1, 8, 5, 6)\n", done.stderr


def test_the_position_term_is_no_second_way():
    """Every projection is called once, whatever the options."""
    for options in ENL_CASES:
        block = enl(options)
        calls = dict.fromkeys(PROJECTIONS, 0)

        def count(name, *_, calls=calls):
            calls[name] += 1

        for name in PROJECTIONS:
            getattr(block, name).register_forward_pre_hook(functools.partial(count, name))
        block(a_map())
        assert set(calls.values()) == {1}
