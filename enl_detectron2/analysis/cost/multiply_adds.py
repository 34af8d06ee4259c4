"""The multiply-adds of an inference, counted operation by operation; an unknown one is an error."""

from collections import Counter
from math import prod
from typing import Any

import torch
from detectron2.utils.analysis import FlopCountAnalysis
from fvcore.nn.jit_handles import Handle, conv_flop_jit, get_shape
from torch import nn

from enl_detectron2.layers.relation_block import RelationBlock
from enl_detectron2.modeling import relation_block_names

from .random_model import fixed_regions, random_image

PARTS = ("bottom-up", "FPN", "relation blocks", "RPN", "heads")


class UncountableOp(RuntimeError):
    """A model does something whose multiply-adds nobody has said how to count."""


def count_multiply_adds(model: nn.Module, image_size: tuple[int, int]) -> dict[str, int]:
    """The multiply-adds of one inference by part.

    Args:
        model: one of detectron2's, in inference mode, on the CPU.
        image_size: (height, width) before padding.

    Returns:
        for each of ``PARTS`` its multiply-adds. A relation block counts as that wherever it
        stands; "bottom-up" and "FPN" are the rest of the backbone; "heads" is all that is neither
        backbone nor RPN: box, mask and keypoint head, or the head of a one-stage detector.

    Raises:
        UncountableOp: if there is no rule for an operation.
    """
    with fixed_regions(model, image_size):
        counts = count_by_module(
            model, [{"image": random_image(image_size, len(model.pixel_mean))}]
        )
    blocks = relation_blocks(model)

    def without_blocks(module: str) -> int:
        return counts[module] - sum(counts[b] for b in blocks if b.startswith(module + "."))

    # A backbone without a pyramid has no bottom_up below it, and is that itself.
    has_pyramid = hasattr(model.backbone, "bottom_up")
    backbone = without_blocks("backbone")
    bottom_up = without_blocks("backbone.bottom_up") if has_pyramid else backbone
    parts = {
        "bottom-up": bottom_up,
        "FPN": backbone - bottom_up,
        "relation blocks": sum(counts[block] for block in blocks),
        "RPN": without_blocks("proposal_generator"),
    }
    return parts | {"heads": counts[""] - sum(parts.values())}


def count_by_module(module: nn.Module, inputs: Any) -> Counter[str]:
    """The multiply-adds of a module and of each of its sub-modules, by name; "" is the whole.

    Counted are sums of products: convolutions, linear maps, matrix products, attention. What is
    done element by element, normalisation, softmax and resampling count as nothing; so does bias.

    Args:
        module: in inference mode.
        inputs: what it is called with, one tensor or whatever else a detectron2 model takes.

    Raises:
        UncountableOp: if there is no rule for an operation; names it, and the module.
    """
    analysis = _MultiplyAdds(module, inputs)
    counts = analysis.by_module()
    if analysis.unknown:
        operations = ", ".join(f"{op} in {name or 'the model'}" for op, name in analysis.unknown)
        raise UncountableOp(
            f"no rule says how many multiply-adds these are: {operations}; "
            "enl_detectron2/analysis/cost/multiply_adds.py needs one"
        )
    return Counter({_own_name(name): count for name, count in counts.items() if name})


def relation_blocks(model: nn.Module) -> dict[str, nn.Module]:
    """A model's relation blocks by name: those of this project's backbones, of any kind, and all
    RelationBlocks."""
    of_backbones = relation_block_names(model)
    blocks = {}
    for name, module in model.named_modules():
        within = any(name.startswith(block + ".") for block in blocks)
        if not within and (name in of_backbones or isinstance(module, RelationBlock)):
            blocks[name] = module
    return blocks


def _matrix_product(left: int) -> Handle:
    """A rule for an operation whose left factor, rows to be summed over, is the input ``left``."""

    def count(inputs: list, outputs: list) -> int:
        return prod(get_shape(outputs[0])) * get_shape(inputs[left])[-1]

    return count


def _einsum(inputs: list, outputs: list) -> int:
    """Of two factors: one multiply-add for each combination of all indices."""
    equation = inputs[0].toIValue().replace(" ", "")
    factors = equation.split("->")[0].split(",")
    # Three factors may be multiplied in several orders, of different cost.
    if len(factors) != 2 or "." in equation:
        raise UncountableOp(
            f"no rule says how many multiply-adds einsum {equation!r} is; "
            "only two factors without an ellipsis can be counted"
        )
    sizes: dict[str, int] = {}
    for indices, tensor in zip(factors, inputs[1].node().inputs()):
        for index, size in zip(indices, get_shape(tensor)):
            sizes[index] = max(size, sizes.get(index, 1))  # a factor of length 1 is repeated
    return prod(sizes.values())


def _attention(inputs: list, outputs: list) -> int:
    """softmax(Q Kᵀ) V for Q (…, L, E), K (…, S, E) and V (…, S, E'): L·S·(E + E') for each head."""
    query, key, value = (get_shape(tensor) for tensor in inputs[:3])
    return prod(query[:-1]) * key[-2] * (query[-1] + value[-1])


# fvcore's own rule for matmul misses the leading dimensions when the left factor has fewer of them,
# and its einsum reads a rounded number out of NumPy's report; its convolution is right.
_RULES: dict[str, Handle] = {
    "aten::_convolution": conv_flop_jit,
    "aten::linear": _matrix_product(left=0),
    "aten::matmul": _matrix_product(left=0),
    "aten::mm": _matrix_product(left=0),
    "aten::bmm": _matrix_product(left=0),
    "aten::addmm": _matrix_product(left=1),
    "aten::baddbmm": _matrix_product(left=1),
    "aten::baddbmm_": _matrix_product(left=1),
    "aten::einsum": _einsum,
    "aten::linalg_vector_norm": lambda inputs, outputs: prod(get_shape(inputs[0])),
    "aten::scaled_dot_product_attention": _attention,
}

# Why operations count as nothing, beside those that fvcore itself knows to compute nothing (views,
# copies, integers).
_NOTHING_TO_COUNT_BECAUSE = {
    "element by element, or over one tensor's elements: nothing is multiplied and summed": """
        aten::abs aten::add aten::add_ aten::amax aten::bitwise_and aten::bitwise_not
        aten::clamp_min aten::cos aten::div aten::div_ aten::exp aten::exp_ aten::floor_divide
        aten::gt aten::hardtanh aten::hardtanh_ aten::le aten::log2 aten::lt aten::masked_fill
        aten::mean aten::mul aten::mul_ aten::ne aten::neg aten::pow aten::prod aten::reciprocal
        aten::relu6 aten::rsub aten::sigmoid aten::sigmoid_ aten::softmax aten::sqrt aten::sub
        aten::sub_ aten::sum aten::tanh aten::where""",
    "one factor and one offset for each element": """
        aten::batch_norm aten::group_norm aten::layer_norm""",
    "products of all pairs, which are not summed": "aten::outer aten::kron",
    "pooling, or resampling with no weights but interpolation's; an adaptive RoIAlign has as many "
    "samples as its boxes are large": """
        aten::max_pool2d aten::upsample_nearest2d aten::upsample_bilinear2d aten::grid_sampler
        torchvision::roi_align""",
    "comparing, sorting and selecting": """
        aten::all aten::argmax aten::argsort aten::isfinite aten::nonzero_numpy aten::sort
        aten::topk torchvision::nms""",
    "moving, filling and repeating": """
        aten::constant_pad_nd aten::expand_as aten::fill_ aten::meshgrid aten::narrow
        aten::numpy_T aten::ones_like aten::pad aten::repeat_interleave aten::view_as""",
    "TorchScript that detectron2 and torchvision make of functions of theirs while they are traced:"
    " devices, shapes and NMS of boxes, resampling of masks and heatmaps": """
        script:move_device_like script:_convert_boxes_to_pooler_format script:_create_zeros
        script:_batched_nms_coordinate_trick script:_batched_nms_vanilla
        script:_paste_masks_tensor_shape script:heatmaps_to_keypoints""",
}
_NOTHING_TO_COUNT = {
    operation
    for operations in _NOTHING_TO_COUNT_BECAUSE.values()
    for operation in operations.split()
}


class _MultiplyAdds(FlopCountAnalysis):
    """detectron2's analysis with the rules above; ``unknown`` collects (operation, module)."""

    def __init__(self, module: nn.Module, inputs: Any):
        super().__init__(module, inputs)
        self.unknown: dict[tuple[str, str], None] = {}  # a set that keeps the order
        self.clear_op_handles()
        self.set_op_handle(**_RULES, **dict.fromkeys(_NOTHING_TO_COUNT))
        self.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
        self.tracer_warnings("none")  # about deprecated calls of detectron2's

    def _should_ignore_node(self, node: torch._C.Node) -> bool:
        # fvcore asks this about each operation without a rule, and doesn't look into functions.
        operation = node.kind()
        if operation == "prim::CallFunction":
            operation = "script:" + next(node.inputs()).node().s("name")
        known = operation in _NOTHING_TO_COUNT or super()._should_ignore_node(node)
        if not known:
            self.unknown[operation, _own_name(node.scopeName().split("/")[-1])] = None
        return known


def _own_name(traced_name: str) -> str:
    """A module's name, without the "model" that it has in detectron2's wrapper for tracing."""
    return traced_name.removeprefix("model").removeprefix(".")
