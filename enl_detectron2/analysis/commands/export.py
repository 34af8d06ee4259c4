"""Writes a trained detector as ONNX or TorchScript, after comparing the two.

    enl export --format onnx trained/nuclei_enl_rcnn_lite0.yaml nuclei.onnx

onnx           the detector: image (3, H, W) uint8 → boxes, scores, classes[, masks]
onnx-backbone  the backbone: image (B, 3, H, W), normalised and padded → p2, p3, …
tracing        TorchScript: image (3, H, W) → tuple of boxes, scores, classes[, masks]
scripting      TorchScript: image (3, H, W) → dict of pred_boxes, scores, pred_classes[, pred_masks]

All are for images of any height and width; load TorchScript with torchvision imported.
"""

import argparse
from pathlib import Path
from typing import Any

from enl_detectron2.analysis.command_line import new_parser, require_new
from enl_detectron2.utils.imports import add_import_option


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = new_parser(__doc__)
    parser.add_argument("config", help=".yaml, LazyConfig .py, or a name of the model zoo")
    parser.add_argument("output", help="the file to write; must not be there yet")
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="overrides, as in training")
    formats = ["onnx", "onnx-backbone", "tracing", "scripting"]
    parser.add_argument("--format", choices=formats, required=True)
    parser.add_argument(
        "--image",
        metavar="FILE",
        help="compare on this photograph instead of two of cell nuclei; best one in which the "
        "model finds many things",
    )
    parser.add_argument(
        "--class-names",
        metavar="NAME,NAME…",
        help="written into the file, in the classes' order; by default those in the weights, "
        "or else of the set to test on, if it is found",
    )
    add_import_option(parser)
    return parser.parse_intermixed_args(arguments)  # KEY VALUE may follow the options


def main(arguments: list[str] | None = None) -> None:
    args = parse_args(arguments)
    require_new(args.output)

    from enl_detectron2.analysis.detector import load_detector
    from enl_detectron2.export import export_backbone, export_detector
    from enl_detectron2.training.config import load_config

    detector = load_detector(load_config(args.config, args.opts))
    model, mapper = detector.model, detector.mapper
    images = None
    if args.image:
        images = [detector.read(args.image)["image"].numpy().transpose(1, 2, 0)]
    if args.format == "onnx-backbone":
        export = export_backbone(model, images, colour_order=mapper.image_format)
    else:
        names = args.class_names.split(",") if args.class_names else detector.class_names
        metadata = {"class_names": names, **resizing(mapper)}
        order = mapper.image_format
        export = export_detector(model, args.format, images, colour_order=order, metadata=metadata)
    Path(args.output).write_bytes(export.content)
    print(f"wrote {args.output}, {export.report}")


def resizing(mapper: Any) -> dict[str, int]:
    """How images are resized for a test: not at all, or as detectron2 does by default; empty if
    in another way."""
    from detectron2.data.transforms import ResizeShortestEdge

    augmentations = mapper.augmentations.augs
    if not augmentations:
        return {"shortest_edge": 0, "longest_edge": 0}
    if [type(each) for each in augmentations] != [ResizeShortestEdge]:
        return {}
    [resize] = augmentations
    return {"shortest_edge": resize.short_edge_length[0], "longest_edge": resize.max_size}
