#!/usr/bin/env python
"""Detects objects in slices of an image, with SAHI and a detector that train_net.py trained."""

import argparse
import os

from detectron2.data.detection_utils import read_image
from sahi import AutoDetectionModel
from sahi.predict import get_sliced_prediction
from sahi.prediction import PredictionResult

import enl_detectron2  # noqa: F401  registers the backbone for SAHI's model type "detectron2"


def detect(
    training: str, image: str, *, slice_size: int, overlap: float, threshold: float, device: str
) -> PredictionResult:
    """What the detector finds in the slices of an image, merged.

    Args:
        training: the output folder of train_net.py, with config.yaml and model_final.pth.
        image: a picture's file.
        slice_size: height and width of a slice, in pixels.
        overlap: of neighbouring slices, as a share of their size.
        threshold: the score that a detection needs.
        device: "cpu" or "cuda:0".
    """
    model = AutoDetectionModel.from_pretrained(
        "detectron2",
        model_path=os.path.join(training, "model_final.pth"),
        config_path=os.path.join(training, "config.yaml"),
        confidence_threshold=threshold,
        device=device,
    )
    return get_sliced_prediction(
        read_image(image, format="RGB"),
        model,
        slice_height=slice_size,
        slice_width=slice_size,
        overlap_height_ratio=overlap,
        overlap_width_ratio=overlap,
        perform_standard_pred=False,  # not the whole image at once, too
        verbose=0,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("training", help="the output folder of train_net.py")
    parser.add_argument("image", help="the picture's file")
    parser.add_argument("output", help="the folder for prediction_visual.png")
    parser.add_argument("--slice", type=int, default=512, help="a slice's height and width")
    parser.add_argument("--overlap", type=float, default=0.2, help="share of a slice's size")
    parser.add_argument("--threshold", type=float, default=0.5, help="score of a detection")
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    found = detect(
        args.training,
        args.image,
        slice_size=args.slice,
        overlap=args.overlap,
        threshold=args.threshold,
        device=args.device,
    )
    found.export_visuals(export_dir=args.output)
    print(f"{len(found.object_prediction_list)} objects; see {args.output}/prediction_visual.png")


if __name__ == "__main__":
    main()
