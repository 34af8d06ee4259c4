"""What PyTorch does to a network's layers, it does to the blocks': they are called as modules."""

import subprocess
import sys
from pathlib import Path

import equations
import pytest
import torch
import torch.distributed as dist
from equations import ENL_CASES, randomized, relative_error
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed import fsdp
from torch.utils.checkpoint import checkpoint

from enl_detectron2.layers import ENLBlock, NonLocalBlock

PROJECTIONS = ["theta", "phi", "g", "out"]
SIZE = (7, 10)
EXTENT = torch.tensor([[7, 10], [4, 6]])
whole_and_padded = pytest.mark.parametrize("extent", [None, EXTENT], ids=["whole", "padded"])


def enl(options):
    return randomized(ENLBlock(6, **options))


def a_map(**options):
    torch.manual_seed(1)
    return torch.randn(2, 6, *SIZE, dtype=torch.float64, **options)


class LowRank(nn.Module):
    """A layer beside a trained low-rank one, as LoRA puts it."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer.requires_grad_(False)
        self.down = nn.Conv2d(layer.in_channels, 2, 1, bias=False).double()
        self.up = nn.Conv2d(2, layer.out_channels, 1, bias=False).double()

    def forward(self, x):
        return self.layer(x) + self.up(self.down(x))


@whole_and_padded
@pytest.mark.parametrize("projection", PROJECTIONS)
def test_an_adapter_has_its_effect_and_its_gradient(projection, extent):
    block, x = enl(ENL_CASES[0]), a_map()
    adapter = LowRank(getattr(block, projection))
    setattr(block, projection, adapter)
    adapted = block(x, extent)
    adapted.square().sum().backward()
    assert adapter.up.weight.grad.abs().max() > 1e-8 and adapter.down.weight.grad.abs().max() > 1e-8
    setattr(block, projection, adapter.layer)
    assert relative_error(block(x, extent), adapted) > 1e-4
    with torch.no_grad():  # merged
        product = adapter.up.weight.flatten(1) @ adapter.down.weight.flatten(1)
        adapter.layer.weight += product.view_as(adapter.layer.weight)
    assert relative_error(block(x, extent), adapted) < 1e-10


@whole_and_padded
@pytest.mark.parametrize("block", [enl(ENL_CASES[0]), randomized(NonLocalBlock(6))])
def test_hooks_of_every_layer_fire_once(block, extent):
    seen = []
    for name in PROJECTIONS:
        layer = getattr(block, name)
        layer.register_forward_hook(lambda *_, name=name: seen.append(name))
        layer.register_full_backward_hook(lambda *_, name=name: seen.append(name))
    block(a_map(requires_grad=True), extent).sum().backward()
    assert sorted(seen) == sorted(2 * PROJECTIONS)


@pytest.fixture
def one_process():
    """A group of this process alone, for what PyTorch distributes over several."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield dist.device_mesh.init_device_mesh("cpu", (1,))
    dist.destroy_process_group()


@pytest.mark.skipif(not hasattr(fsdp, "fully_shard"), reason="needs PyTorch 2.6")
@whole_and_padded
def test_layers_may_be_sharded_and_activations_computed_again(one_process, extent):
    """A sharded layer has its weight only while it is called."""
    block, x = enl(ENL_CASES[0]), a_map(requires_grad=True)
    expected = block(x, extent)
    expected.square().sum().backward()
    gradients = {name: parameter.grad for name, parameter in block.named_parameters()}
    block.zero_grad()
    output = checkpoint(block, x, extent, use_reentrant=False)
    (of_x,) = torch.autograd.grad(output.square().sum(), x)
    assert torch.equal(of_x, x.grad)
    for name in PROJECTIONS:
        fsdp.fully_shard(getattr(block, name), mesh=one_process)
    output = block(x, extent)
    assert torch.equal(output, expected)
    output.square().sum().backward()
    for name, parameter in block.named_parameters():
        assert torch.equal(parameter.grad.full_tensor(), gradients[name]), name


@whole_and_padded
@pytest.mark.parametrize("options", ENL_CASES[:3], ids=equations.case_name)
def test_fake_and_meta_tensors_leave_nothing_behind(options, extent):
    block, x = enl(options), a_map()
    with FakeTensorMode() as mode:
        of_mode = None if extent is None else mode.from_tensor(extent)
        assert ENLBlock(6, **options)(mode.from_tensor(x).float(), of_mode).dtype == torch.float32
    assert torch.isfinite(block(x, extent)).all()  # a real call of the same size
    output = block.to("meta")(x.to("meta"), None if extent is None else extent.to("meta"))
    assert output.shape == x.shape and output.is_meta


@whole_and_padded
@pytest.mark.parametrize(
    "block",
    [enl(ENL_CASES[0]), enl(ENL_CASES[1]), randomized(NonLocalBlock(6, position="cos_add"))],
    ids=["softmax cos", "tanh l1", "NL softmax cos_add"],
)
def test_functions_of_the_block(block, extent):
    x, step = a_map(), 1e-5
    direction = torch.randn_like(x)

    def function(x):
        return block(x, extent)

    def gradient(x):
        return torch.func.grad(lambda x: function(x).square().sum())(x)

    def by_differences(function):
        return (function(x + step * direction) - function(x - step * direction)) / (2 * step)

    batched = torch.vmap(function)(torch.stack([x, 2 * x]))
    assert relative_error(batched, torch.stack([function(x), function(2 * x)])) < 1e-10
    if isinstance(block, NonLocalBlock):
        return  # PyTorch's fused attention has no such derivatives on the CPU
    derivative = torch.func.jvp(function, (x,), (direction,))[1]
    assert relative_error(derivative, by_differences(function)) < 1e-5
    leaf = x.clone().requires_grad_()  # and a Hessian's product, by a second backward pass
    (product,) = torch.autograd.grad((gradient(leaf) * direction).sum(), leaf)
    assert relative_error(product, by_differences(gradient)) < 1e-5


@pytest.mark.parametrize(
    "breaks",
    [
        "sys.modules.update(detectron2=None, fvcore=None, omegaconf=None)  # as if not there",
        "sys.modules['fvcore'] = None",
        "import PIL.Image; del PIL.Image.BILINEAR  # as with a Pillow that is too new",
    ],
    ids=["missing", "half", "broken"],
)
def test_needs_nothing_but_pytorch(breaks):
    """``from enl_detectron2.layers import ENLBlock`` where detectron2 can't be imported."""
    script = f"""
import sys
{breaks}
import torch
from enl_detectron2.layers import ENLBlock
print(tuple(ENLBlock(8)(torch.randn(1, 8, 5, 6)).shape))
"""
    root = str(Path(__file__).parents[2])
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=root)
    assert done.stdout == "(1, 8, 5, 6)\n", done.stderr
