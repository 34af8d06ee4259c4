#!/usr/bin/env python
"""Writes a trained detector as TorchScript, or its backbone as ONNX.

    python tools/export_model.py --format scripting configs/enl_rcnn_R50.yaml model.ts \\
        MODEL.WEIGHTS model_final.pth MODEL.DEVICE cpu

scripting   image (3, H, W) → dict of pred_boxes, scores, pred_classes[, pred_masks]
tracing     the same as a tuple
onnx        the backbone: image (B, 3, H, W), normalised and padded → p2, p3, …

All are for images of any height and width; load TorchScript with torchvision imported.
"""

import signal

signal.signal(signal.SIGINT, signal.SIG_DFL)  # quiet until run() says it: imports take seconds

import argparse

from enl_detectron2.analysis.command_line import require_new
from enl_detectron2.utils.command_line import run
from enl_detectron2.utils.imports import add_import_option


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", help=".yaml, or LazyConfig .py")
    parser.add_argument("output", help="the file to write; must not be there yet")
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="overrides, as in training")
    parser.add_argument("--format", choices=["scripting", "tracing", "onnx"], required=True)
    parser.add_argument(
        "--image", help="for tracing: an image in which the model finds something", metavar="FILE"
    )
    add_import_option(parser)
    args = parser.parse_args(arguments)
    if args.format == "tracing" and not args.image:
        parser.error("tracing needs --image FILE, an image in which the model finds something")
    return args


def main(arguments: list[str] | None = None) -> None:
    args = parse_args(arguments)
    require_new(args.output)

    import torch

    from enl_detectron2.analysis.detections.prediction import instances_above
    from enl_detectron2.analysis.detector import load_detector
    from enl_detectron2.export import script, trace, write_onnx
    from enl_detectron2.training.config import load_config
    from enl_detectron2.utils.files import whole_file

    detector = load_detector(load_config(args.config, args.opts))
    model = detector.model
    if args.format == "onnx":
        with whole_file(args.output) as file:
            write_onnx(model.backbone, file.name, (256, 256), len(model.pixel_mean))
    else:
        if args.format == "scripting":
            exported = script(model)
        else:
            image = detector.read_image(args.image, model.input_format)
            image = torch.as_tensor(image.transpose(2, 0, 1).copy(), device=model.device)
            with torch.no_grad():
                (output,) = model([{"image": image}])
            if not len(instances_above(0.0, output)):  # what comes after wouldn't be in the trace
                raise ValueError(f"--image {args.image}: the model finds nothing in it")
            exported = trace(model, image)
        with whole_file(args.output) as file:
            file.write(exported.save_to_buffer())
    print(f"wrote {args.output}")


if __name__ == "__main__":
    run(main)
