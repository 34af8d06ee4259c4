"""What a block is in a graph: the same numbers, none of them float64, which accelerators refuse."""

import io

import pytest
import torch
from equations import randomized, relative_error
from nightly import a_few

from enl_detectron2.layers import ENLBlock, NonLocalBlock

SIZE, OTHER = (2, 8, 9, 12), (2, 8, 11, 7)
POSITIONS = ["cos_add", "l1_add", "none"]


def inputs_of(size, padded, dtype=torch.float32):
    torch.manual_seed(1)
    x = torch.randn(size, dtype=dtype)
    extent = torch.tensor([[size[2], size[3]], [size[2] - 4, size[3] - 2]])
    return (x, extent) if padded else (x,)


BLOCKS = [
    (ENLBlock, {}),
    (ENLBlock, {"phi_norm": "none", "theta_norm": "tanh", "position": "l1_add"}),
    (NonLocalBlock, {"position": "cos_add"}),
    (NonLocalBlock, {"affinity_norm": "mean", "position": "cos_mul"}),
]


def assert_holds_for_other_sizes(graph, block, padded):
    for size in (SIZE, OTHER):
        inputs = inputs_of(size, padded, torch.float64)
        assert relative_error(graph(*inputs), block(*inputs)) < 1e-6


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("kind, options", BLOCKS, ids=str)
def test_torchscript(kind, options, padded):
    block = randomized(kind(8, **options)).eval()
    traced = torch.jit.trace(block, inputs_of(SIZE, padded, torch.float64))
    for graph in (traced, torch.jit.script(block)):
        assert_holds_for_other_sizes(graph, block, padded)


@pytest.mark.parametrize("kind, options", a_few(BLOCKS, 4), ids=str)
def test_torch_compile_and_torch_export(kind, options):
    block = randomized(kind(8, **options)).eval()
    torch.compiler.reset()  # PyTorch recompiles one code for eight modules at most
    compiled = torch.compile(block, fullgraph=True, backend="aot_eager")
    assert_holds_for_other_sizes(compiled, block, padded=True)
    open_sizes = {2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}
    inputs = inputs_of(SIZE, True, torch.float64)
    exported = torch.export.export(block, inputs, dynamic_shapes=(open_sizes, {}))
    assert_holds_for_other_sizes(exported.module(), block, padded=True)


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("position", POSITIONS)
@torch.no_grad()
def test_a_graph_holds_no_float64(position, padded):
    block, inputs = ENLBlock(8, position=position).eval(), inputs_of(SIZE, padded)
    traced = torch.jit.trace(block, inputs)
    # Python's numbers are constants of this type, which takes no part in a tensor's.
    lines = [line for line in str(traced.inlined_graph).splitlines() if "Double(" in line]
    assert all("prim::Constant" in line for line in lines)
    assert "float64" not in str(torch.export.export(block, inputs).graph_module.code)


@pytest.mark.parametrize("opset", [11, 17])
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("position", POSITIONS)
@torch.no_grad()
def test_onnx_gives_the_blocks_numbers_at_another_size(position, padded, opset):
    onnx = pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime")
    torch.manual_seed(0)
    block, content = ENLBlock(8, position=position, init_std=0.3).eval(), io.BytesIO()
    names = ["x", "extent"][: 1 + padded]
    torch.onnx.export(
        block,
        inputs_of(SIZE, padded),
        content,
        input_names=names,
        dynamic_axes={"x": {2: "height", 3: "width"}},
        opset_version=opset,
        dynamo=False,
    )
    graph = onnx.load_from_string(content.getvalue()).graph
    constants = [a.t.data_type for n in graph.node for a in n.attribute if n.op_type == "Constant"]
    casts = [a.i for n in graph.node for a in n.attribute if n.op_type == "Cast"]
    types = [*constants, *casts, *(one.data_type for one in graph.initializer)]
    assert onnx.TensorProto.DOUBLE not in types
    inputs = inputs_of(OTHER, padded)
    session = runtime.InferenceSession(content.getvalue())
    (actual,) = session.run(None, {name: value.numpy() for name, value in zip(names, inputs)})
    torch.testing.assert_close(torch.from_numpy(actual), block(*inputs), rtol=1e-4, atol=1e-4)
