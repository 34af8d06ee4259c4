"""A trained detector for programs without detectron2: TorchScript of all, ONNX of its backbone."""

import contextlib
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch
from detectron2.export import TracingAdapter, scripting_with_instances
from detectron2.modeling import Backbone, GeneralizedRCNN
from detectron2.structures import Boxes
from torch import Tensor, nn

# What Instances hold on the way through an R-CNN, which TorchScript wants to know beforehand.
_FIELDS = {
    "proposal_boxes": Boxes,
    "objectness_logits": Tensor,
    "pred_boxes": Boxes,
    "scores": Tensor,
    "pred_classes": Tensor,
}


class ExportedDetector(nn.Module):
    """An R-CNN for one image, without pre- and postprocessing."""

    def __init__(self, model: GeneralizedRCNN):
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """
        Args:
            image: (3, H, W), in the model's channel order (BGR by default), 0 to 255.

        Returns:
            pred_boxes (K, 4) in pixels of ``image`` as x0, y0, x1, y1, scores (K,) and
            pred_classes (K,); of Mask R-CNN pred_masks (K, 1, 28, 28), within the boxes.
        """
        (instances,) = self.model.inference([{"image": image}], do_postprocess=False)
        return instances.get_fields()


def trace(model: nn.Module, image: Tensor) -> torch.jit.ScriptModule:
    """The detector as TorchScript's trace, for images of any size.

    Args:
        model: an R-CNN in inference mode.
        image: (3, H, W), any one in which something is found.

    Returns:
        image → tuple of the tensors that :class:`ExportedDetector` returns, in that order.

    Raises:
        ValueError: if the model is no R-CNN.
    """
    _check_rcnn(model)

    def infer(model: GeneralizedRCNN, inputs: list[dict[str, Tensor]]) -> list[Tensor]:
        (instances,) = model.inference(inputs, do_postprocess=False)
        return [getattr(value, "tensor", value) for value in instances.get_fields().values()]

    adapter = TracingAdapter(model, [{"image": image}], infer)
    with _without_warnings(), torch.no_grad():
        # PyTorch's own check would only trace and run the same image again.
        return torch.jit.trace(adapter, adapter.flattened_inputs, check_trace=False)


def script(model: nn.Module) -> torch.jit.ScriptModule:
    """The detector as TorchScript's compilation, for images of any size.

    It stays in inference mode: detectron2 scripts it with ``training`` as a constant, so it can't
    be given an ``eval()`` or ``train()`` after loading, and needs none.

    Args:
        model: an R-CNN in inference mode.

    Returns:
        image → dict, as :class:`ExportedDetector`.

    Raises:
        ValueError: if the model is no R-CNN.
    """
    _check_rcnn(model)
    fields = _FIELDS | ({"pred_masks": Tensor} if model.roi_heads.mask_on else {})
    with _without_warnings():
        return scripting_with_instances(ExportedDetector(model).eval(), fields)


def write_onnx(
    backbone: Backbone,
    file: str | Path,
    image_size: tuple[int, int],
    channels: int = 3,
    *,
    opset: int = 17,
) -> None:
    """Writes a backbone as ONNX: "image" (B, C, H, W), normalised → "p2" … by their names.

    B is any, H and W any multiples of ``backbone.size_divisibility``.

    Args:
        backbone: in inference mode.
        file: where to.
        image_size: (height, width) of the image to trace with, rounded up to such multiples.
        channels: C, 1 for grey images.
        opset: of ONNX. ENL blocks need 11, which detectron2's own export uses; non-local blocks
            14, which brought the attention that they call.
    """
    multiple = max(backbone.size_divisibility, 1)
    height, width = (-(-size // multiple) * multiple for size in image_size)
    device = next(backbone.parameters()).device
    image = torch.zeros(1, channels, height, width, device=device)
    names = list(backbone.output_shape())
    # The exporter over TorchScript: it needs no other package, and handles open sizes.
    with _without_warnings(), torch.no_grad():
        torch.onnx.export(
            backbone,
            (image,),
            str(file),
            dynamo=False,
            opset_version=opset,
            input_names=["image"],
            output_names=names,
            dynamic_axes={
                "image": {0: "batch", 2: "height", 3: "width"},
                **{n: {0: "batch", 2: f"height_{n}", 3: f"width_{n}"} for n in names},
            },
        )


def _check_rcnn(model: nn.Module) -> None:
    if not isinstance(model, GeneralizedRCNN):
        raise ValueError(
            f"TorchScript is written of Faster and Mask R-CNN; this is a {type(model).__name__}"
        )


@contextlib.contextmanager
def _without_warnings() -> Iterator[None]:
    """Without those that PyTorch gives for what detectron2's code leaves constant on purpose."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
