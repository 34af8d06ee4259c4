"""Ground truth beside detections, several images on one sheet."""

import json
import os
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image, ImageDraw

from enl_detectron2.analysis.detections.drawn import drawing_font, stretched, write_labels
from enl_detectron2.analysis.drawing import shortened
from enl_detectron2.analysis.palette import MODEL_COLOURS, TRUTH_COLOUR
from enl_detectron2.training.data.images import read_image

PANEL = 480  # pixels, the width of an image on the sheet
GAP, BAND = 6, 24  # pixels between images, and of the line of text above them
PAPER, INK = "#FFFFFF", "#202020"


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

    Above each image are its name and how many objects it has, or the model has found.

    Args:
        dataset_name: a registered set of COCO format.
        results_file: ``coco_instances_results.json``, as detectron2's COCO evaluator writes it.
        sheet_file: the picture to write, a PNG.
        num_images: how many images to show.
        score_threshold: detections below this score are left out.
        labels: whether boxes have their class, and detections their score, beside them where there
            is room.
    """
    with open(results_file) as file:
        detections = defaultdict(list)
        for detection in json.load(file):
            if detection["score"] >= score_threshold:
                detections[detection["image_id"]].append(detection)
    metadata = MetadataCatalog.get(dataset_name)
    records = DatasetCatalog.get(dataset_name)[:num_images]
    names = [shortened(name) for name in metadata.thing_classes]
    class_of = metadata.thing_dataset_id_to_contiguous_id

    pairs = []
    for record in records:
        image = Image.fromarray(stretched(read_image(record["file_name"], "RGB")))
        truth, found = record["annotations"], detections[record["image_id"]]
        words = [f"{names[class_of[d['category_id']]]} {d['score']:.0%}" for d in found]
        panels = [
            _panel(
                image,
                [one["bbox"] for one in objects],
                texts if labels else [],
                colour,
                f"{Path(record['file_name']).stem}: {len(objects)} {kind}",
            )
            for objects, texts, colour, kind in (
                (truth, [names[one["category_id"]] for one in truth], TRUTH_COLOUR, "annotated"),
                (found, words, MODEL_COLOURS[0], f"found, score ≥ {score_threshold:g}"),
            )
        ]
        pairs.append(_side_by_side(panels))
    half = sum(pair.height for pair in pairs) / 2
    columns: list[list[Image.Image]] = [[], []]
    for pair in pairs:  # in their order, down the first column, then the second
        is_full = sum(above.height for above in columns[0]) + pair.height / 2 > half
        columns[bool(columns[0]) and is_full].append(pair)
    sheet = _side_by_side([_stacked(column) for column in columns if column])
    sheet.save(sheet_file, "PNG")


def _panel(
    image: Image.Image, boxes: Sequence, texts: Sequence[str], colour: str, title: str
) -> Image.Image:
    scale = PANEL / image.width
    picture = image.resize((PANEL, round(image.height * scale)), Image.Resampling.BICUBIC)
    pen = ImageDraw.Draw(picture)
    corners = np.array(boxes, dtype=float).reshape(-1, 4) * scale
    corners[:, 2:] += corners[:, :2]
    for box in corners.tolist():
        pen.rectangle(box, outline=colour)
    colours = [colour] * len(texts)
    write_labels(pen, corners, texts, colours, drawing_font(11), picture.size, everywhere=False)
    panel = Image.new("RGB", (PANEL, picture.height + BAND), PAPER)
    panel.paste(picture, (0, BAND))
    font = drawing_font(14)
    while title and font.getlength(title) > PANEL:  # of the name, not of the number at its end
        title = "…" + title[2:]
    ImageDraw.Draw(panel).text((0, 3), title, font=font, fill=INK)
    return panel


def _side_by_side(images: Sequence[Image.Image]) -> Image.Image:
    width = sum(image.width + GAP for image in images) - GAP
    row = Image.new("RGB", (width, max(image.height for image in images)), PAPER)
    left = 0
    for image in images:
        row.paste(image, (left, 0))
        left += image.width + GAP
    return row


def _stacked(images: Sequence[Image.Image]) -> Image.Image:
    column = Image.new("RGB", (images[0].width, sum(image.height for image in images)), PAPER)
    top = 0
    for image in images:
        column.paste(image, (0, top))
        top += image.height
    return column
