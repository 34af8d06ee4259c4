#!/usr/bin/env python
"""Writes a trained detector as TorchScript, or its backbone as ONNX.

    python tools/export_model.py --format scripting configs/enl_rcnn_R50.yaml model.ts \\
        MODEL.WEIGHTS model_final.pth MODEL.DEVICE cpu

scripting   image (3, H, W) → dict of pred_boxes, scores, pred_classes[, pred_masks]
tracing     the same as a tuple
onnx        the backbone: image (1, 3, H, W), normalised and padded → p2, p3, …

All are for images of any height and width; load TorchScript with torchvision imported.
"""

import argparse
import os

import torch
from detectron2.data.detection_utils import read_image

from enl_detectron2.analysis.detector import load_detector
from enl_detectron2.export import script, trace, write_onnx
from enl_detectron2.training.config import load_config


def main(arguments: list[str] | None = None) -> None:
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
    args = parser.parse_args(arguments)
    if not os.path.isfile(args.config):
        parser.error(f"there is no configuration {args.config}")
    if os.path.exists(args.output):
        parser.error(f"{args.output} is there already: choose another name, or delete it")
    if args.format == "tracing" and not (args.image and os.path.isfile(args.image)):
        parser.error("tracing needs --image FILE, an image in which the model finds something")

    try:
        model = load_detector(load_config(args.config, args.opts)).model
        if args.format == "onnx":
            write_onnx(model.backbone, args.output, (256, 256), len(model.pixel_mean))
        elif args.format == "scripting":
            script(model).save(args.output)
        else:
            image = read_image(args.image, format=model.input_format)
            image = torch.as_tensor(image.transpose(2, 0, 1).copy(), device=model.device)
            trace(model, image).save(args.output)
    except ValueError as error:
        parser.error(str(error))
    print(f"wrote {args.output}")


if __name__ == "__main__":
    main()
