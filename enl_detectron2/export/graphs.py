"""Models as graphs: TorchScript by tracing or scripting, ONNX by PyTorch's exporter over traces."""

import contextlib
import warnings
from collections.abc import Iterator, Sequence
from io import BytesIO
from pathlib import Path

import torch
from detectron2.export import TracingAdapter, scripting_with_instances
from detectron2.export.flatten import flatten_to_tuple
from detectron2.modeling import Backbone, GeneralizedRCNN, PanopticFPN
from detectron2.modeling.meta_arch.dense_detector import DenseDetector
from detectron2.structures import Boxes
from torch import Tensor, nn

from enl_detectron2.layers import NonLocalBlock
from enl_detectron2.utils.text import reason

# What Instances hold on the way through a detector, which TorchScript wants to know beforehand.
_RESULT_FIELDS = {"pred_boxes": Boxes, "scores": Tensor, "pred_classes": Tensor}
_PROPOSAL_FIELDS = {"proposal_boxes": Boxes, "objectness_logits": Tensor}
# What is looked at beside the detections, if there is such a module.
_WATCHED = (
    "backbone",
    "head",
    "anchor_generator",
    "proposal_generator.rpn_head",
    "proposal_generator.anchor_generator",
    "proposal_generator",
    "roi_heads.box_predictor",
)
PROPOSALS = "proposals"  # (R, 4), the boxes that the outputs below have a row for
ROWS = "roi_heads.box_predictor"  # the outputs' names start so


class NotExportable(ValueError):
    """A format doesn't work for a model, or the export isn't the model; says why."""


class ExportedDetector(nn.Module):
    """An R-CNN or RetinaNet for one image, without resizing before and pasting of masks after."""

    def __init__(self, model: nn.Module):
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


class _ScriptedDenseDetector(ExportedDetector):
    def forward(self, image: Tensor) -> dict[str, Tensor]:
        (instances,) = self.model([{"image": image}])  # scripted, it doesn't postprocess either
        return instances.get_fields()


def detect(model: nn.Module, image: Tensor, watch: bool = False) -> dict[str, Tensor]:
    """What :class:`ExportedDetector` returns, as tensors; with ``watch`` also what they came from.

    Args:
        model: an R-CNN or RetinaNet in inference mode.
        image: (3, H, W), in the model's channel order, 0 to 255.
        watch: adds the backbone's maps by their names, and what the heads gave.
    """
    watched: dict[str, Tensor] = {}
    modules = dict(model.named_modules())
    names = [name for name in _WATCHED if watch and name in modules]
    if isinstance(modules.get(ROWS), nn.ModuleList):  # one for each stage of a cascade
        names += [f"{ROWS}.{index}" for index in range(len(modules[ROWS]))]

    def watcher(name: str):
        def hook(module: nn.Module, inputs: object, output: object) -> None:
            if name == "proposal_generator":
                watched[PROPOSALS] = output[0][0].proposal_boxes.tensor  # type: ignore[index]
            elif isinstance(output, dict):
                watched.update(output)
            else:
                watched.update(indexed(name, output))

        return hook

    hooks = [modules[name].register_forward_hook(watcher(name)) for name in names]
    try:
        if isinstance(model, GeneralizedRCNN):
            (instances,) = model.inference([{"image": image}], do_postprocess=False)
        else:
            images = model.preprocess_image([{"image": image}])  # type: ignore[operator]
            features = model.backbone(images.tensor)  # type: ignore[operator]
            maps = [features[name] for name in model.head_in_features]  # type: ignore[union-attr]
            predictions = model.head(maps)  # type: ignore[operator]
            (instances,) = model.forward_inference(images, maps, predictions)  # type: ignore[operator]
    finally:
        for each in hooks:
            each.remove()
    fields = instances.get_fields().items()
    return {name: getattr(value, "tensor", value) for name, value in fields} | watched


def indexed(name: str, output: object) -> dict[str, Tensor]:
    """The tensors within a module's output, by the module's name and their numbers."""
    return {f"{name}[{i}]": part for i, part in enumerate(flatten_to_tuple(output)[0])}


def trace(model: nn.Module, image: Tensor, watch: bool = False) -> torch.jit.ScriptModule:
    """The detector as TorchScript's trace, for images of any size.

    Args:
        model: an R-CNN or RetinaNet in inference mode.
        image: (3, H, W), any one in which something is found.
        watch: as of :func:`detect`.

    Returns:
        image → tuple of the tensors that :class:`ExportedDetector` returns, in that order.

    Raises:
        NotExportable: (a ValueError) if the model is none of these, or can't be traced.
    """
    adapter = _adapter(model, image, watch)
    with _exporting("tracing", model):
        # PyTorch's own check would only trace and run the same image again.
        return torch.jit.trace(adapter, adapter.flattened_inputs, check_trace=False)


def script(model: nn.Module) -> torch.jit.ScriptModule:
    """The detector as TorchScript's compilation, for images of any size.

    It stays in inference mode: detectron2 scripts it with ``training`` as a constant, so it can't
    be given an ``eval()`` or ``train()`` after loading, and needs none.

    Args:
        model: an R-CNN or RetinaNet in inference mode.

    Returns:
        image → dict, as :class:`ExportedDetector`.

    Raises:
        NotExportable: (a ValueError) if the model is none of these, or can't be scripted.
    """
    check_kind(model)
    fields, detector = _RESULT_FIELDS, _ScriptedDenseDetector
    if isinstance(model, GeneralizedRCNN):
        fields, detector = _PROPOSAL_FIELDS | _RESULT_FIELDS, ExportedDetector
        if getattr(model.roi_heads, "mask_on", False):
            fields = fields | {"pred_masks": Tensor}
    with _exporting("scripting", model):
        return scripting_with_instances(detector(model).eval(), fields)


def detector_onnx(
    model: nn.Module, image: Tensor, names: Sequence[str], opset: int = 17, watch: bool = False
) -> bytes:
    """The whole detector as ONNX: "image" (3, H, W) uint8 → what is found, under ``names``.

    Args:
        model, image, watch: as those of :func:`trace`.
        names: of the outputs, in the order of :func:`detect`.
        opset: of ONNX.

    Raises:
        NotExportable: (a ValueError) if the model is none of these, or can't be exported.
    """
    adapter = _adapter(model, image, watch)
    axes = {"image": {1: "height", 2: "width"}}
    if watch:
        with torch.no_grad():
            outputs = detect(model, image, watch)
        # A side that isn't said to be open is promised to be as it was traced.
        axes |= {n: {i: f"{n}_{i}" for i in range(v.dim())} for n, v in outputs.items()}
    else:
        axes |= {name: {0: "detections"} for name in names}
    return _onnx(adapter, adapter.flattened_inputs, "onnx", model, names, axes, opset)


def write_onnx(
    backbone: Backbone,
    file: str | Path,
    image_size: tuple[int, int],
    channels: int = 3,
    *,
    opset: int | None = None,
) -> None:
    """Writes a backbone as ONNX: "image" (B, C, H, W), normalised → "p2" … by their names.

    B is any, H and W any multiples of ``backbone.size_divisibility``. Nothing is compared:
    :func:`enl_detectron2.export.export_backbone` does.

    Args:
        backbone: in inference mode.
        file: where to.
        image_size: (height, width) of the image to trace with, rounded up to such multiples.
        channels: C, 1 for grey images.
        opset: of ONNX. None is 11, which detectron2's own export uses, or 14 where there are
            non-local blocks: it brought the attention that they call.

    Raises:
        NotExportable: (a ValueError) if it can't be exported.
    """
    Path(file).write_bytes(backbone_onnx(backbone, image_size, channels, opset))


def backbone_onnx(
    backbone: Backbone, image_size: tuple[int, int], channels: int = 3, opset: int | None = None
) -> bytes:
    """What :func:`write_onnx` writes."""
    multiple = max(backbone.size_divisibility, 1)
    height, width = (-(-size // multiple) * multiple for size in image_size)
    image = torch.zeros(1, channels, height, width, device=next(backbone.parameters()).device)
    if opset is None:
        attends = any(isinstance(module, NonLocalBlock) for module in backbone.modules())
        opset = 14 if attends else 11
    names = list(backbone.output_shape())
    axes = {"image": {0: "batch", 2: "height", 3: "width"}}
    axes.update({n: {0: "batch", 2: f"height_{n}", 3: f"width_{n}"} for n in names})
    return _onnx(backbone, (image,), "onnx-backbone", backbone, names, axes, opset)


def check_kind(model: nn.Module) -> None:
    """Raises NotExportable (a ValueError) unless the model is one that can be exported."""
    if not isinstance(model, (GeneralizedRCNN, DenseDetector)) or isinstance(model, PanopticFPN):
        raise NotExportable(
            f"Faster and Mask R-CNN and RetinaNet can be exported; this is a {type(model).__name__}"
        )
    if isinstance(model, GeneralizedRCNN) and model.proposal_generator is None:
        raise NotExportable(
            "an R-CNN that is given its proposals can't be exported, it needs an RPN"
        )


def _adapter(model: nn.Module, image: Tensor, watch: bool) -> TracingAdapter:
    check_kind(model)

    def infer(model: nn.Module, inputs: list[dict[str, Tensor]]) -> list[Tensor]:
        return list(detect(model, inputs[0]["image"], watch).values())

    # ONNX's exporter sets what it has traced to the mode that the adapter was in.
    return TracingAdapter(model, [{"image": image}], infer).eval()


def _onnx(graph, inputs, format_, model, names, axes, opset) -> bytes:
    content = BytesIO()
    with _exporting(format_, model):
        # The exporter over TorchScript: it needs no other package, and handles open sizes.
        torch.onnx.export(
            graph,
            inputs,
            content,
            dynamo=False,
            opset_version=opset,
            input_names=["image"],
            output_names=list(names),
            dynamic_axes=axes,
        )
    return content.getvalue()


@contextlib.contextmanager
def _exporting(format_: str, model: nn.Module) -> Iterator[None]:
    """Without warnings, which PyTorch gives for what detectron2's code leaves constant on purpose,
    and with what the exporters raise, whatever that is, as NotExportable."""
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            yield
    except Exception as error:
        raise NotExportable(
            f"{format_} doesn't work for this {type(model).__name__}: "
            f"{type(error).__name__}: {reason(error)}"
        ) from error
