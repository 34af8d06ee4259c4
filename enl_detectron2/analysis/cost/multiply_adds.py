"""The multiply-adds of an inference by part, as fvcore and detectron2 count them."""

import logging
from collections import Counter
from collections.abc import Mapping
from math import prod
from typing import Any

from detectron2.utils.analysis import FlopCountAnalysis
from fvcore.nn.jit_handles import Handle, get_shape
from torch import nn

from enl_detectron2.modeling import relation_blocks

from .random_model import fixed_regions, random_image

logger = logging.getLogger(__name__)

PARTS = ("bottom-up", "FPN", "relation blocks", "RPN", "heads")


def count_multiply_adds(model: nn.Module, image_size: tuple[int, int]) -> dict[str, int]:
    """The multiply-adds of one inference by part.

    Args:
        model: one of detectron2's, in inference mode, on the CPU.
        image_size: (height, width) before padding.

    Returns:
        for each of ``PARTS`` its multiply-adds. A relation block counts as that wherever it
        stands; "bottom-up" and "FPN" are the rest of the backbone; "heads" is all that is neither
        backbone nor RPN: box, mask and keypoint head, or the head of a one-stage detector.
    """
    with fixed_regions(model, image_size):
        image = random_image(image_size, len(model.pixel_mean))
        counts = count_by_module(model, [{"image": image}])
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

    They are those of detectron2's ``FlopCountAnalysis``, with ``HANDLES``. Operations for which
    there is no rule count as nothing, as softmax and whatever else is done element by element
    should; a warning names them.

    Args:
        module: in inference mode.
        inputs: what it is called with, one tensor or whatever else a detectron2 model takes.
    """
    analysis = FlopCountAnalysis(module, inputs).set_op_handle(**HANDLES)
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    analysis.tracer_warnings("none")  # about deprecated calls of detectron2's
    counts = analysis.by_module()
    if uncounted := analysis.unsupported_ops():
        logger.warning("no rule, so counted as nothing: %s", ", ".join(sorted(uncounted)))
    # The module is "model" in detectron2's wrapper for tracing.
    return Counter(
        {
            name.removeprefix("model").removeprefix("."): int(count)
            for name, count in counts.items()
            if name
        }
    )


def _matrix_product_in_place(inputs: list, outputs: list) -> int:
    """z + A B for z (B, M, N), A (B, M, K), B (B, K, N)."""
    return prod(get_shape(outputs[0])) * get_shape(inputs[1])[-1]


def _attention(inputs: list, outputs: list) -> int:
    """softmax(Q Kᵀ) V for Q (…, L, E), K (…, S, E) and V (…, S, E'): L·S·(E + E') for each head."""
    query, key, value = (get_shape(tensor) for tensor in inputs[:3])
    return prod(query[:-1]) * key[-2] * (query[-1] + value[-1])


# What the blocks do and fvcore 0.1.5 has no rule for.
HANDLES: Mapping[str, Handle] = {
    "aten::baddbmm_": _matrix_product_in_place,
    "aten::scaled_dot_product_attention": _attention,
}
