"""The photographs of the drone's grid, and the weights that its detectors start from."""

import os
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from enl_detectron2.utils.errors import MissingFile
from enl_detectron2.utils.files import whole_file

DATASETS = Path(os.environ.get("DETECTRON2_DATASETS", "datasets"))
TRUNK = "yolox_nano_coco_trunk.safetensors"


def options(run: object, folder: Path) -> dict[str, Any]:
    """What names the photographs and the first weights in a configuration, for any run."""
    splits = [f"visdrone_{split}" for split in ("train", "val")]
    names = [name.replace("visdrone", "visdrone_test") for name in splits]
    return {
        "DATASETS.COCO_FORMAT": [[name, f"{of}.json", of] for name, of in zip(names, splits)],
        "DATASETS.TRAIN": (names[0],),
        "DATASETS.TEST": (names[1],),
        "MODEL.WEIGHTS": str(folder / "trunk.pth"),
    }


def prepare(run: object, folder: Path) -> None:
    """Writes the trunk as the first weights, unless they are there."""
    first_weights(folder)


def first_weights(folder: Path) -> Path:
    """Writes the trunk as a detector's first weights, trunk.pth, unless it is there.

    Raises:
        MissingFile: (a FileNotFoundError) if the trunk or the annotations aren't in
            ``$DETECTRON2_DATASETS``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name in (TRUNK, "visdrone_train.json"):
        if not (DATASETS / name).is_file():
            raise MissingFile(
                f"{DATASETS / name} is missing; experiments/visdrone/README.md says what belongs "
                "into $DETECTRON2_DATASETS"
            )
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
