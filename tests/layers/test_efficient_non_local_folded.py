"""ENLBlock.forward, which folds the products, against the block's equations as they stand."""

import itertools
import threading

import pytest
import torch
from equations import relative_error

from enl_detectron2.layers import ENLBlock
from enl_detectron2.layers.position import _cached_basis
from enl_detectron2.layers.relation_block import RelationBlock

VARIANTS = list(
    itertools.product(["softmax", "mean", "none"], ["none", "tanh"], ["cos_add", "l1_add", "none"])
)
SIZES = [(1, 1), (1, 9), (8, 1), (7, 10), (25, 34)]


def make_block(variant, channels=16, dtype=torch.float32):
    """A block whose output is about as large as its input."""
    phi_norm, theta_norm, position = variant
    torch.manual_seed(0)
    block = ENLBlock(channels, phi_norm=phi_norm, theta_norm=theta_norm, position=position)
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter, std=channels**-0.5)
    return block.to(dtype)


def outputs_and_gradients(function, block, x):
    x = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    block.zero_grad()
    output = function(x)
    generator = torch.Generator().manual_seed(1)
    output.backward(torch.randn(output.shape, generator=generator, dtype=torch.float64).to(output))
    # A copy, as the next call sets them to zero.
    gradients = {name: p.grad.clone() for name, p in block.named_parameters()}
    return {"output": output.detach(), "x": x.grad, **gradients}


def assert_equal_to_direct_form(block, x, tolerance):
    folded = outputs_and_gradients(block, block, x)
    direct = outputs_and_gradients(lambda x: RelationBlock.forward(block, x), block, x)
    for name, expected in direct.items():
        if name == "phi.bias" and block.phi_norm == "softmax":
            # A softmax doesn't see a constant; what is left of its gradient is rounding.
            assert folded[name].norm() < 1e-4 * direct["phi.weight"].norm()
            continue
        assert folded[name].dtype == expected.dtype
        assert relative_error(folded[name], expected) < tolerance, name


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("height, width", SIZES)
@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-5), (torch.float64, 1e-10)])
def test_outputs_and_all_gradients_are_the_direct_forms(variant, height, width, dtype, tolerance):
    block = make_block(variant, dtype=dtype)
    x = torch.randn(2, 16, height, width, dtype=dtype)
    if (height, width) == (1, 1) and variant[0] == "softmax":
        # One position: its softmax is 1 whatever φ is, so φ's gradient is rounding alone.
        folded, direct = block(x), RelationBlock.forward(block, x)
        assert relative_error(folded, direct) < tolerance
        return
    assert_equal_to_direct_form(block, x, tolerance)
    assert_equal_to_direct_form(block, x.to(memory_format=torch.channels_last), tolerance)


@pytest.mark.parametrize("variant", VARIANTS)
def test_autocast_agrees_with_float32_to_its_own_accuracy(variant):
    block = make_block(variant)
    x = torch.randn(2, 16, 40, 50)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = block(x)
        direct = RelationBlock.forward(block, x)
    assert output.dtype == torch.bfloat16
    exact = RelationBlock.forward(block, x)
    # 2^-8 is one rounding; the direct form under autocast rounds as often.
    assert relative_error(output, exact) < max(2**-7, 2 * relative_error(direct, exact))


def test_autocast_trains():
    block = make_block(("softmax", "none", "cos_add"))
    x = torch.randn(2, 16, 12, 13)
    exact = outputs_and_gradients(block, block, x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = outputs_and_gradients(block, block, x)
    for name in ("x", "theta.weight", "g.weight", "out.weight"):
        assert relative_error(rounded[name], exact[name]) < 0.03, name


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_a_module_of_another_dtype_stays_in_it(dtype):
    block = make_block(("softmax", "none", "cos_add"), dtype=dtype)
    x = torch.randn(1, 16, 12, 13, dtype=dtype)
    assert block(x).dtype == dtype
    exact = RelationBlock.forward(block.double(), x.double())
    assert relative_error(block.to(dtype)(x).double(), exact) < (
        0.02 if dtype != torch.float64 else 1e-12
    )


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_large_and_small_activations(variant, scale):
    block = make_block(variant)
    x = scale * torch.randn(1, 16, 12, 13)
    output = block(x)
    assert torch.isfinite(output).all()
    exact = RelationBlock.forward(block.double(), x.double())
    assert relative_error(output.double(), exact) < 1e-4


@pytest.mark.parametrize("position", ["cos_add", "none"])
def test_training_keeps_little_for_the_backward_pass(position):
    block = make_block(("softmax", "none", position), channels=64)
    x = torch.randn(1, 64, 60, 80, requires_grad=True)
    kept = {}
    with torch.autograd.graph.saved_tensors_hooks(
        lambda tensor: kept.update({tensor.untyped_storage().data_ptr(): tensor}) or tensor,
        lambda tensor: tensor,
    ):
        block(x).sum().backward()
    kept.pop(x.untyped_storage().data_ptr())
    size = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    assert size <= 0.6 * x.untyped_storage().nbytes()


def test_the_basis_is_cached_within_bounds():
    block = make_block(("softmax", "none", "cos_add"))
    _cached_basis.cache_clear()
    x = torch.randn(1, 16, 20, 30)
    with torch.inference_mode():
        block(x)
    first = _cached_basis.cache_info()
    assert (first.currsize, first.misses) == (2, 2)
    block(x.requires_grad_()).sum().backward()  # what inference left there can be trained with
    assert _cached_basis.cache_info().misses == 2
    for width in range(1, 300):
        block(torch.randn(1, 16, 2, width))
    assert _cached_basis.cache_info().currsize <= _cached_basis.cache_info().maxsize


def test_threads_share_the_block():
    block = make_block(("softmax", "none", "cos_add"))
    maps = [torch.randn(1, 16, height, 40 - height) for height in range(4, 24)]
    with torch.no_grad():
        expected = [block(x) for x in maps]
    _cached_basis.cache_clear()
    results = {}

    @torch.no_grad()
    def work(thread):
        results[thread] = [block(x) for x in maps]

    threads = [threading.Thread(target=work, args=(thread,)) for thread in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for outputs in results.values():
        assert all(torch.equal(o, e) for o, e in zip(outputs, expected, strict=True))
    assert len(results) == 4


def test_a_call_leaves_nothing_on_the_block():
    # DataParallel calls shallow copies of a module, whose state they share.
    block = make_block(("softmax", "none", "cos_add"))
    before = {name: dict(vars(module)) for name, module in block.named_modules()}
    block(torch.randn(2, 16, 12, 20)).sum().backward()
    assert {name: dict(vars(module)) for name, module in block.named_modules()} == before


def test_a_trace_holds_the_basis_of_its_own_size():
    block = make_block(("softmax", "none", "cos_add"))
    x = torch.randn(1, 16, 12, 20)
    traced = torch.jit.trace(block, x)
    other = torch.randn(2, 16, 12, 20)
    assert relative_error(traced(other), block(other)) < 1e-6


@pytest.mark.parametrize("variant", [("softmax", "none", "cos_add"), ("mean", "tanh", "l1_add")])
def test_compiles_without_a_graph_break(variant):
    block = make_block(variant)
    compiled = torch.compile(block, fullgraph=True, backend="aot_eager")
    for height, width in ((12, 20), (15, 11)):
        x = torch.randn(1, 16, height, width)
        assert relative_error(compiled(x), block(x)) < 1e-6
