"""Results in COCO's format, of models that are run on annotated photographs."""

import json
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.structures import Instances
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from tqdm import tqdm

from enl_detectron2.analysis.detector import Detector, load_detector, naming, num_classes
from enl_detectron2.training.config import load_config
from enl_detectron2.training.evaluation import Limit

from .matching import load_truth, require_size
from .prediction import predict

logger = logging.getLogger(__name__)


def run_models(
    models: Mapping[str, Sequence[str]],
    annotation_file: str | os.PathLike,
    image_folder: str | os.PathLike,
    output_folder: str | os.PathLike,
    tile: int | None = None,
) -> dict[str, Path]:
    """Runs models on annotated photographs; gives each one's results as a file in a folder.

    Args:
        models: a configuration each, and its weights unless they are the configuration's.
        annotation_file: ground truth in COCO's format.
        image_folder: where its images lie.
        output_folder: made if it isn't there; the files are ``results_1.json``, ….
        tile: as of ``load_config``.

    Raises:
        ValueError: if a model can't be loaded or has other classes, or an image can't be used.
    """
    truth = load_truth(annotation_file)
    files = {}
    for place, (name, (config, *weights)) in enumerate(models.items(), start=1):
        key = ["train.init_checkpoint={}"] if config.endswith(".py") else ["MODEL.WEIGHTS", "{}"]
        opts = [word.format(weights[0]) for word in key] if weights else []
        detector = load_detector(load_config(config, opts, tile))
        categories = category_ids(detector, truth, name)
        found = []
        with Limit(detector.model) as limit:
            for image_id, image in tqdm(truth.imgs.items(), desc=name, unit="image"):
                file = os.path.join(image_folder, image["file_name"])
                pixels = detector.read_image(file, "BGR")
                require_size(image, file, *pixels.shape[:2])
                with naming(file):
                    instances = predict(detector, pixels, score_threshold=0.0, name=file)
                found += as_results(instances, image_id, categories)
        if limit.files:
            logger.warning("%s: %s", name, limit.warning(detector.tile))
        os.makedirs(output_folder, exist_ok=True)
        files[name] = Path(output_folder, f"results_{place}.json")
        files[name].write_text(json.dumps(found))
    return files


def category_ids(detector: Detector, truth: COCO, name: str) -> list[int]:
    """Of each class of a model: by its name, or else in the order of the ground truth's ids.

    Raises:
        ValueError: if the ground truth has another number of categories and other names.
    """
    ids = {category["name"]: number for number, category in sorted(truth.cats.items())}
    if detector.class_names and ids.keys() >= set(detector.class_names):
        return [ids[each] for each in detector.class_names]
    number = num_classes(detector.model)
    if number not in (None, len(truth.cats)):
        raise ValueError(
            f"{name!r} has {number} classes, but the ground truth {len(truth.cats)} categories"
        )
    if len(ids) > 1 and detector.class_names:
        logger.warning(
            "%s: its classes are called otherwise than the ground truth's, and taken in the order "
            "of the ids: %s",
            name,
            ", ".join(f"{ours} for {its}" for ours, its in zip(detector.class_names, ids)),
        )
    return sorted(truth.cats)


def as_results(
    instances: Instances, image_id: int | str, categories: Sequence[int]
) -> list[dict[str, Any]]:
    """Detections of one photograph, masks too, as COCO's results have them."""
    low, high = instances.pred_boxes.tensor.split(2, dim=1)
    boxes = np.concatenate([low, high - low], axis=1).tolist()
    found = []
    for place, (index, score) in enumerate(
        zip(instances.pred_classes.tolist(), instances.scores.tolist())
    ):
        detection = {
            "image_id": image_id,
            "category_id": categories[index],
            "bbox": boxes[place],
            "score": score,
        }
        if instances.has("pred_masks"):
            mask = np.asfortranarray(instances.pred_masks[place].numpy().astype(np.uint8))
            mask = coco_mask.encode(mask)
            detection["segmentation"] = {**mask, "counts": mask["counts"].decode()}
        found.append(detection)
    return found
