"""What a block is in a graph: the same numbers, none of them float64, which accelerators refuse."""

import io

import pytest
import torch

from enl_detectron2.layers import ENLBlock

SIZE, OTHER = (2, 8, 9, 12), (2, 8, 11, 7)


def extent_of(size):
    return torch.tensor([[size[2], size[3]], [size[2] - 4, size[3] - 2]])


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("position", ["cos_add", "l1_add", "none"])
@torch.no_grad()
def test_a_graph_holds_no_float64(position, padded):
    torch.manual_seed(0)
    block = ENLBlock(8, position=position, init_std=0.3).eval()
    inputs = (torch.randn(SIZE), *((extent_of(SIZE),) if padded else ()))
    traced = torch.jit.trace(block, inputs)
    # Python's numbers are constants of this type, which takes no part in a tensor's.
    lines = [line for line in str(traced.inlined_graph).splitlines() if "Double(" in line]
    assert all("prim::Constant" in line for line in lines)
    exported = torch.export.export(block, inputs)
    assert "float64" not in str(exported.graph_module.code)


@pytest.mark.parametrize("opset", [11, 17])
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("position", ["cos_add", "l1_add", "none"])
@torch.no_grad()
def test_onnx_gives_the_blocks_numbers_at_another_size(position, padded, opset):
    onnx = pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime")
    torch.manual_seed(0)
    block = ENLBlock(8, position=position, init_std=0.3).eval()
    names = ["x", "extent"][: 1 + padded]
    content = io.BytesIO()
    torch.onnx.export(
        block,
        (torch.randn(SIZE), *((extent_of(SIZE),) if padded else ())),
        content,
        input_names=names,
        dynamic_axes={"x": {2: "height", 3: "width"}},
        opset_version=opset,
        dynamo=False,
    )
    graph = onnx.load_from_string(content.getvalue()).graph
    double = onnx.TensorProto.DOUBLE
    constants = [a.t.data_type for n in graph.node for a in n.attribute if n.op_type == "Constant"]
    casts = [a.i for n in graph.node for a in n.attribute if n.op_type == "Cast"]
    assert double not in [*constants, *casts, *(one.data_type for one in graph.initializer)]
    session = runtime.InferenceSession(content.getvalue())
    x = torch.randn(OTHER)
    inputs = (x, *((extent_of(OTHER),) if padded else ()))
    (actual,) = session.run(None, {name: value.numpy() for name, value in zip(names, inputs)})
    torch.testing.assert_close(torch.from_numpy(actual), block(*inputs), rtol=1e-4, atol=1e-4)
