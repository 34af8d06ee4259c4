"""Exports that are compared with their model, and are had only if they are the same."""

import contextlib
import importlib.util
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from detectron2.modeling import GeneralizedRCNN
from PIL import Image
from torch import Tensor, nn

from enl_detectron2.layers.relation_block import check_choice
from enl_detectron2.model_zoo import PHOTOGRAPHS

from .comparison import Agreement, Outputs, compare, constant_module, size_name
from .graphs import (
    NotExportable,
    backbone_onnx,
    check_kind,
    detect,
    detector_onnx,
    indexed,
    script,
    trace,
)

FORMATS = ("scripting", "tracing", "onnx")
SMALLEST = 128  # pixels a side: on less, sizes would hardly differ once padded
LARGEST = 640  # pixels a side that are looked at
# Parts of a photograph's height and width: of what is traced, and of what is compared.
TRACED = (3 / 4, 2 / 3)
COMPARED = ((1, 1), (1, 1 / 2), (1 / 2, 1))


@dataclass(frozen=True)
class Export:
    """What to write into a file, and a sentence on what it was compared on."""

    content: bytes
    report: str


def photographs() -> list[np.ndarray]:
    """Two of the photographs that come with the package, (256, 320, 3) uint8, RGB."""
    files = [PHOTOGRAPHS / name for name in ("smear_bright_field.jpg", "tissue_pink.jpg")]
    return [np.asarray(Image.open(file).convert("RGB")) for file in files]


def export_detector(
    model: nn.Module,
    format: str,
    images: Sequence[np.ndarray] | None = None,
    *,
    colour_order: str = "BGR",
    metadata: Mapping[str, object] | None = None,
) -> Export:
    """A detector in another format, which has been compared with it on images of several sizes.

    It is traced on a part of the first image, and then run on others of each, wide and high ones:
    feature maps and what the heads give must agree, and the detections match one to one.
    TorchScript is run in PyTorch; ONNX in ONNX Runtime, if it is installed, and as the trace that
    it is made from.

    Args:
        model: an R-CNN or RetinaNet in inference mode.
        format: "scripting" or "tracing", TorchScript; or "onnx", the whole detector.
        images: (H, W, C) uint8 in the model's channel order, at the scale that it is used at; at
            least 128 pixels high and wide. None means :func:`photographs`.
        colour_order: "BGR", "RGB" or "L", goes into the file.
        metadata: what else goes into the file, by name: a str as it is, other values as JSON.

    Returns:
        The file's content. In ONNX the metadata are the model's, in TorchScript they are the extra
        file "metadata.json".

    Raises:
        NotExportable: (a ValueError) if the format doesn't work for the model, or the export
            differs from it; names the size, the difference and, as far as known, the module
            that made a size constant.
        ValueError: if an image is too small, or the format another.
    """
    check_choice("format", format, FORMATS)
    check_kind(model)
    views = _views(model, images, colour_order)
    traced, compared = views[0], views[1:]
    texts = _texts(model, colour_order, metadata)
    with _exact(), torch.no_grad():
        expected = [detect(model, image, watch=True) for image in compared]
        every_name = list(detect(model, traced, watch=True))
        names = list(detect(model, traced))
        if format == "scripting":
            scripted = script(model)
            runs = [
                _Check("TorchScript", _by_name(scripted, names), _scripted_raw(model, scripted))
            ]
            content = scripted.save_to_buffer(_extra_files=_extra_files(texts))
        else:
            written, watched = trace(model, traced), trace(model, traced, watch=True)
            runs = [_Check("TorchScript", _by_name(written, names), _by_name(watched, every_name))]
            if format == "onnx":
                short = [name.removeprefix("pred_") for name in names]
                content = with_metadata(detector_onnx(model, traced, short), texts)
                runs += _onnx_check(
                    content,
                    names,
                    lambda: detector_onnx(model, traced, every_name, watch=True),
                    every_name,
                )
            else:
                content = written.save_to_buffer(_extra_files=_extra_files(texts))
        return Export(content, _checked(format, model, views, expected, runs))


def export_backbone(
    model: nn.Module,
    images: Sequence[np.ndarray] | None = None,
    *,
    colour_order: str = "BGR",
    opset: int | None = None,
) -> Export:
    """A detector's backbone as ONNX, as :func:`write_onnx` has it, compared as a detector is.

    Args:
        model: as that of :func:`export_detector`, with the ``backbone``.
        images, colour_order: as of :func:`export_detector`.
        opset: as of :func:`write_onnx`.

    Raises:
        NotExportable, ValueError: as :func:`export_detector`.
    """
    check_kind(model)
    views = _views(model, images, colour_order)
    backbone, prepare = model.backbone, model.preprocess_image
    with _exact(), torch.no_grad():
        # One of them a batch, whose smaller image is padded.
        batches = [prepare([{"image": image}]).tensor for image in views]  # type: ignore[operator]
        pair = [{"image": image} for image in (views[0], views[-1])]
        batches.append(prepare(pair).tensor)  # type: ignore[operator]
        expected = [backbone(batch) for batch in batches[1:]]  # type: ignore[operator]
        channels = batches[0].shape[1]
        size = batches[0].shape[2], batches[0].shape[3]
        content = with_metadata(
            backbone_onnx(backbone, size, channels, opset),  # type: ignore[arg-type]
            _texts(model, colour_order, None),
        )
        runs = _onnx_check(content, list(expected[0]), lambda: content, list(expected[0]))
        if not runs:
            traced = torch.jit.trace(backbone, batches[0], check_trace=False, strict=False)
            runs = [_Check("TorchScript", traced, traced)]
        return Export(content, _checked("onnx-backbone", model, views, expected, runs, batches))


@dataclass(frozen=True)
class _Check:
    """An export in a runtime: image → what is written gives, and image → what it comes from."""

    runtime: str
    detections: Callable[[Tensor], Outputs]
    raw: Callable[[Tensor], Outputs]


def _checked(
    format: str,
    model: nn.Module,
    views: Sequence[Tensor],
    expected: Sequence[Outputs],
    runs: Sequence[_Check],
    batches: Sequence[Tensor] | None = None,
) -> str:
    """Compares, and says what was compared."""
    inputs = views if batches is None else batches
    said = []
    for run in runs:
        try:
            raw = compare(run.raw, inputs[1:], expected, raw=True)
            found = compare(run.detections, inputs[1:], expected, raw=False)
        except NotExportable as error:
            where = (
                f"{format} would be another model, so nothing is written: in {run.runtime} {error}"
            )
            where += f" (traced at {size_name(views[0])})" if format != "scripting" else ""
            raise NotExportable(where + _culprit(format, model, views)) from error
        said.append(f"in {run.runtime} {_agreement(raw, None if batches else found)}")
    if format.startswith("onnx") and all(run.runtime != ONNX_RUNTIME for run in runs):
        said.append(f"not in {ONNX_RUNTIME}, which isn't installed")
    sizes = ", ".join(dict.fromkeys(map(size_name, views[1:])))
    return f"compared with the model at {sizes} pixels: {'; '.join(said)}"


def _agreement(raw: Agreement, found: Agreement | None) -> str:
    maps = f"maps differ by at most {raw.difference:.1g} of their largest value"
    if found is None:
        return maps
    if not found.detections:
        return f"{maps}, and nothing is found in what it was compared on"
    return f"{found.matched} of {found.detections} detections match, {maps}"


def _culprit(format: str, model: nn.Module, views: Sequence[Tensor]) -> str:
    if format == "scripting":
        return ""
    for other in views[1:]:
        name = constant_module(model, lambda image: detect(model, image), views[0], other)
        if name:
            return f"; {name} makes a size constant"
    return ""


def _by_name(module: Callable, names: Sequence[str]) -> Callable[[Tensor], Outputs]:
    def run(image: Tensor) -> Outputs:
        found = module(image)
        return found if isinstance(found, dict) else dict(zip(names, found))

    return run


def _scripted_raw(model: nn.Module, scripted: torch.jit.ScriptModule) -> Callable:
    """Of what can't be watched from outside, the parts that can be called from there."""

    def run(image: Tensor) -> Outputs:
        batch = model.preprocess_image([{"image": image}]).tensor  # type: ignore[operator]
        parts = scripted.model
        features = parts.backbone(batch)
        if isinstance(model, GeneralizedRCNN):
            maps = [features[name] for name in model.proposal_generator.in_features]
            name, head = "proposal_generator.rpn_head", parts.proposal_generator.rpn_head
        else:
            maps = [features[name] for name in model.head_in_features]  # type: ignore[union-attr]
            name, head = "head", parts.head
        return features | indexed(name, head(maps))

    return run


ONNX_RUNTIME = "ONNX Runtime"


def _onnx_check(
    content: bytes, names: Sequence[str], watched: Callable[[], bytes], every_name: Sequence[str]
) -> list[_Check]:
    """None where ONNX Runtime isn't installed."""
    if importlib.util.find_spec("onnxruntime") is None:
        return []
    written = _session(content, names)
    return [_Check(ONNX_RUNTIME, written, _session(watched(), every_name))]


def _session(content: bytes, names: Sequence[str]) -> Callable[[Tensor], Outputs]:
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])

    def run(image: Tensor) -> Outputs:
        try:
            found = session.run(None, {"image": image.cpu().numpy()})
        except Exception as error:  # its exceptions have no base of their own
            raise RuntimeError(str(error)) from error
        return {name: torch.from_numpy(value) for name, value in zip(names, found)}

    return run


def with_metadata(content: bytes, texts: Mapping[str, str]) -> bytes:
    """An ONNX file's content with metadata."""
    import onnx

    model = onnx.load_from_string(content)
    onnx.helper.set_model_props(model, dict(texts))
    return model.SerializeToString()


def _extra_files(texts: Mapping[str, str]) -> dict[str, str]:
    return {"metadata.json": json.dumps(texts)}


def _texts(
    model: nn.Module, colour_order: str, metadata: Mapping[str, object] | None
) -> dict[str, str]:
    values: dict[str, object] = {
        "colour_order": colour_order,
        "size_divisibility": model.backbone.size_divisibility,  # type: ignore[union-attr]
        "pixel_mean": model.pixel_mean.flatten().tolist(),  # type: ignore[operator,union-attr]
        "pixel_std": model.pixel_std.flatten().tolist(),  # type: ignore[operator,union-attr]
        **(metadata or {}),
    }
    return {n: v if isinstance(v, str) else json.dumps(v) for n, v in values.items()}


def _views(
    model: nn.Module, images: Sequence[np.ndarray] | None, colour_order: str
) -> list[Tensor]:
    """(C, H, W) each: what is traced, then what is compared, three of each image."""
    if images is None:
        images = photographs()
        if colour_order == "BGR":
            images = [image[..., ::-1] for image in images]
        channels = model.pixel_mean.numel()  # type: ignore[operator,union-attr]
        if channels != 3:
            images = [image.mean(axis=2, keepdims=True).astype("uint8") for image in images]
            images = [image.repeat(channels, axis=2) for image in images]
    views: list[Tensor] = []
    for index, image in enumerate(images):
        pixels = image.reshape(*image.shape[:2], -1)[:LARGEST, :LARGEST]
        height, width = pixels.shape[:2]
        if min(height, width) < SMALLEST:
            raise ValueError(
                f"an image of {height}×{width} pixels is too small to compare an export on: "
                f"it must be at least {SMALLEST} high and wide"
            )
        whole = torch.as_tensor(np.ascontiguousarray(pixels.transpose(2, 0, 1)))
        whole = whole.to(model.device)  # type: ignore[arg-type]
        for down, across in COMPARED if index else (TRACED, *COMPARED):
            view = whole[:, : round(height * down), : round(width * across)]
            views.append(view.contiguous())
    return views


@contextlib.contextmanager
def _exact() -> Iterator[None]:
    """Without a GPU's TF32, which has 10 bits."""
    matmul = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    try:
        with torch.backends.cudnn.flags(allow_tf32=False):
            yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = matmul
