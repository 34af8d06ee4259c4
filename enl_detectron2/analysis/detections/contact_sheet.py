"""Ground truth beside detections, several images on one sheet."""

import json
import os
from collections import defaultdict

import matplotlib

matplotlib.use("Agg")  # drawn to a file, also where there is no screen

import matplotlib.pyplot as plt
import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode
from detectron2.utils.visualizer import Visualizer

from enl_detectron2.analysis.drawing import plain_text, save_figure, shortened
from enl_detectron2.analysis.palette import MODEL_COLOURS, TRUTH_COLOUR
from enl_detectron2.training.data.images import read_image

SCALE = 2  # of the drawing: labels of tiny objects need the room


@plain_text
def draw_contact_sheet(
    dataset_name: str,
    results_file: str | os.PathLike,
    sheet_file: str | os.PathLike,
    *,
    num_images: int = 6,
    score_threshold: float = 0.5,
    labels: bool = True,
) -> None:
    """Draws the first images of a set: ground truth on the left, detections on the right.

    Args:
        dataset_name: a registered set of COCO format.
        results_file: ``coco_instances_results.json``, as detectron2's COCO evaluator writes it.
        sheet_file: the picture to write; its suffix says its format.
        num_images: how many images to show.
        score_threshold: detections below this score are left out.
        labels: whether boxes have their class and score beside them.
    """
    with open(results_file) as file:
        detections = defaultdict(list)
        for detection in json.load(file):
            if detection["score"] >= score_threshold:
                detections[detection["image_id"]].append(detection)
    metadata = MetadataCatalog.get(dataset_name)
    records = DatasetCatalog.get(dataset_name)[:num_images]
    names = metadata.thing_classes
    class_of = metadata.thing_dataset_id_to_contiguous_id

    rows = (len(records) + 1) // 2
    figure, axes = plt.subplots(rows, 4, figsize=(16, 4.3 * rows), squeeze=False)
    pairs = axes.reshape(-1, 2)
    for record, (truth_axes, detection_axes) in zip(records, pairs):
        image = read_image(record["file_name"], "RGB")
        found = detections[record["image_id"]]
        _draw(
            truth_axes,
            image,
            [annotation["bbox"] for annotation in record["annotations"]],
            [shortened(names[annotation["category_id"]]) for annotation in record["annotations"]]
            if labels
            else None,
            TRUTH_COLOUR,
        )
        _draw(
            detection_axes,
            image,
            [detection["bbox"] for detection in found],
            [f"{shortened(names[class_of[d['category_id']]])} {d['score']:.0%}" for d in found]
            if labels
            else None,
            MODEL_COLOURS[0],
        )
    for truth_axes, detection_axes in pairs[: min(2, len(records))]:
        truth_axes.set_title("ground truth")
        detection_axes.set_title(f"detections, score ≥ {score_threshold}")
    for axis in axes.flat:
        axis.set_axis_off()
    figure.tight_layout()
    save_figure(figure, sheet_file)
    plt.close(figure)


def _draw(axes, image: np.ndarray, boxes: list, labels: list[str] | None, colour: str) -> None:
    boxes = [BoxMode.convert(box, BoxMode.XYWH_ABS, BoxMode.XYXY_ABS) for box in boxes]
    drawing = Visualizer(image, scale=SCALE).overlay_instances(
        boxes=np.array(boxes).reshape(-1, 4),
        labels=labels,
        assigned_colors=[colour] * len(boxes),
    )
    axes.imshow(drawing.get_image())
