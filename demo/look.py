#!/usr/bin/env python
"""The trained detector of cell nuclei on six photographs: what it finds, and what it looks at.

``make look``. Takes some seconds on a CPU; writes output/look/nuclei.png and a page of attention.
"""

import contextlib
import io
import json
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from contact_sheet import draw_contact_sheet  # beside this file
from detectron2.data import DatasetCatalog
from detectron2.structures import BoxMode
from detectron2.utils.file_io import PathManager

from enl_detectron2 import model_zoo
from enl_detectron2.analysis.attention.explorer import write_explorer
from enl_detectron2.analysis.detections.prediction import predict
from enl_detectron2.analysis.detector import Detector, load_detector
from enl_detectron2.model_zoo import PHOTOGRAPHS
from enl_detectron2.training.config import load_config
from enl_detectron2.training.data import register_coco_format
from enl_detectron2.utils.command_line import run

NAME = "trained/nuclei_enl_rcnn_lite0.yaml"
SET = "nuclei_photographs"
OUTPUT = Path("output/look")
EXPLAINED = "smear_bright_field.jpg"  # whose attention is shown
SCORE = 0.5


def main() -> None:
    """Prints what is found, beside the card's numbers, and writes the sheet and the page."""
    weights = model_zoo.get_checkpoint_file(NAME)
    options = ["MODEL.WEIGHTS", weights, "MODEL.DEVICE", "cpu", "DATASETS.TEST", f"({SET!r},)"]
    OUTPUT.mkdir(parents=True, exist_ok=True)
    with contextlib.redirect_stdout(io.StringIO()):  # what detectron2 and pycocotools tell
        register_coco_format([[SET, str(PHOTOGRAPHS / "nuclei.json"), str(PHOTOGRAPHS)]])
        photographs = DatasetCatalog.get(SET)
        detector = load_detector(load_config(model_zoo.get_config_file(NAME), options))
    found = [detection for each in photographs for detection in detect(detector, each)]
    results, sheet = OUTPUT / "detections.json", OUTPUT / "nuclei.png"
    results.write_text(json.dumps(found))
    draw_contact_sheet(SET, results, sheet, labels=False, score_threshold=SCORE)
    page = write_page(detector)

    counts = Counter(detection["image_id"] for detection in found)
    print(f"Cell nuclei by the trained detector {Path(NAME).stem}:")
    for each in photographs:
        name = Path(each["file_name"]).stem.replace("_", " ")
        print(
            f"  {name:20} {counts[each['image_id']]:4} found, {len(each['annotations'])} annotated"
        )
    card = read_card(weights)
    print(
        f"On {card['images']} photographs that it wasn't trained on: AP {card['AP']}, AP50 "
        f"{card['AP50']}, small objects' AP {card['APs']}.\n"
        f"Look at {sheet}, and in a browser at {page}."
    )


def detect(detector: Detector, photograph: dict[str, Any]) -> list[dict[str, Any]]:
    """What is found on one photograph, as COCO's results have it."""
    image = detector.read_image(photograph["file_name"], "BGR")
    instances = predict(detector, image, score_threshold=SCORE)
    boxes = BoxMode.convert(instances.pred_boxes.tensor, BoxMode.XYXY_ABS, BoxMode.XYWH_ABS)
    return [
        {"image_id": photograph["image_id"], "category_id": 1, "bbox": box, "score": score}
        for box, score in zip(boxes.tolist(), instances.scores.tolist())
    ]


def write_page(detector: Detector) -> Path:
    """One attention page; gives its file."""
    photograph = PHOTOGRAPHS / EXPLAINED
    write_explorer(detector, [str(photograph)], OUTPUT, score_threshold=SCORE, caption="nuclei")
    [page] = OUTPUT.glob(f"{photograph.stem}*.html")
    return page


def read_card(weights: str) -> dict[str, str]:
    """The results that the weights' file says were measured with them."""
    file = PathManager.get_local_path(weights)
    return torch.load(file, map_location="cpu", weights_only=True)["results"]


if __name__ == "__main__":
    run(main)
