"""The photographs of the drone's grid, and the weights that its detectors start from."""

import json
import os
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors.torch import load_file

from enl_detectron2.utils.errors import MissingFile
from enl_detectron2.utils.files import whole_file, write_whole

DATASETS = Path(os.environ.get("DETECTRON2_DATASETS", "datasets"))
TRUNK = "yolox_nano_coco_trunk.safetensors"
EVERY = 4  # one in so many of the training sequences is "dev", where recipes are chosen


class Setting(Protocol):
    """A run of the grid, as far as its photographs go."""

    data: str  # "test", or "dev" to choose a recipe


def options(run: Setting, folder: Path) -> dict[str, Any]:
    """What names a run's photographs and first weights in a configuration."""
    if run.data == "test":
        files = [f"visdrone_{split}.json" for split in ("train", "val")]
        folders = ["visdrone_train", "visdrone_val"]
    else:
        files = [str(folder / f"visdrone_dev_{split}.json") for split in ("train", "val")]
        folders = ["visdrone_train", "visdrone_train"]
    names = [f"visdrone_{run.data}_{split}" for split in ("train", "val")]
    return {
        "DATASETS.COCO_FORMAT": [list(each) for each in zip(names, files, folders)],
        "DATASETS.TRAIN": (names[0],),
        "DATASETS.TEST": (names[1],),
        "MODEL.WEIGHTS": str(folder / "trunk.pth"),
    }


def prepare(run: Setting, folder: Path) -> None:
    """Writes the trunk as a detector's first weights, and the two parts of the training
    photographs, unless they are there.

    Raises:
        MissingFile: (a FileNotFoundError) if the trunk or the annotations aren't in
            ``$DETECTRON2_DATASETS``.
    """
    first_weights(folder)
    content = json.loads((DATASETS / "visdrone_train.json").read_text())
    for split, held_out in (("train", False), ("val", True)):
        if not (file := folder / f"visdrone_dev_{split}.json").exists():
            write_whole(file, json.dumps(part_of(content, held_out)))


def first_weights(folder: Path) -> Path:
    """Writes the trunk as a detector's first weights, trunk.pth, unless it is there.

    Raises:
        MissingFile: (a FileNotFoundError) if the trunk or the annotations aren't in
            ``$DETECTRON2_DATASETS``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name in (TRUNK, "visdrone_train.json"):
        if not (DATASETS / name).is_file():
            raise MissingFile(f"{DATASETS / name} is missing; $DETECTRON2_DATASETS is its folder")
    if not (file := folder / "trunk.pth").exists():
        weights = load_file(DATASETS / TRUNK)
        prefix = "backbone.bottom_up."
        model = {f"{prefix}{name}": weight.float() for name, weight in weights.items()}
        with whole_file(file) as stream:
            torch.save({"model": model}, stream)
    return file


def sequence(image: dict[str, Any]) -> str:
    """The flight that a photograph is from; those of one are alike."""
    return image["file_name"].split("_")[0]


def part_of(content: dict[str, Any], held_out: bool) -> dict[str, Any]:
    """The photographs of every fourth sequence and their objects, or all others."""
    sequences = sorted({sequence(image) for image in content["images"]})
    chosen = {name for i, name in enumerate(sequences) if (i % EVERY == 2) == held_out}
    images = [image for image in content["images"] if sequence(image) in chosen]
    ids = {image["id"] for image in images}
    objects = [each for each in content["annotations"] if each["image_id"] in ids]
    return content | {"images": images, "annotations": objects}
