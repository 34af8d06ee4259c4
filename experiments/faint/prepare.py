"""The photographs of the faint grid, and the weights that its detectors start from.

A run's data is a level of ``degrade.py``; its system's first word says which set it is.
"""

import os
from pathlib import Path
from typing import Any, Protocol

import torch
from detectron2.modeling import build_model
from detectron2.utils.env import seed_all_rng
from visdrone import network  # noqa: F401, registers the streets' trunk
from visdrone.prepare import first_weights

from enl_detectron2.training.checkpoint import ENLCheckpointer
from enl_detectron2.training.config import load_config
from enl_detectron2.utils.files import whole_file
from faint.degrade import write_set

EXPERIMENTS = Path(__file__).resolve().parents[1]
SETS = {  # the set's name in $DETECTRON2_DATASETS, and the plain detector
    "nuclei": ("nuclei", EXPERIMENTS / "relations" / "nuclei_rcnn.yaml"),
    "streets": ("visdrone", EXPERIMENTS / "visdrone" / "visdrone_rcnn.yaml"),
}


class Setting(Protocol):
    """A run of the grid, as far as its data and first weights go."""

    system: str  # begins with the set
    data: str  # a level
    seed: int


def set_of(system: str) -> str:
    return system.split()[0]


def options(run: Setting, folder: Path) -> dict[str, Any]:
    """What names a run's photographs and first weights in a configuration."""
    name, _ = SETS[set_of(run.system)]
    sets = []
    for split in ("train", "val"):
        files = f"{name}_{split}" if run.data == "sharp" else _target(folder, name, split, run.data)
        sets.append([f"{name}_{split}_{run.data}", f"{files}.json", str(files)])
    return {
        "DATASETS.COCO_FORMAT": sets,
        "DATASETS.TRAIN": (sets[0][0],),
        "DATASETS.TEST": (sets[1][0],),
        "MODEL.WEIGHTS": _first_weights(run, folder),
    }


def prepare(run: Setting, folder: Path) -> None:
    """Writes a run's photographs and its first weights, unless they are there.

    Raises:
        MissingFile: (a FileNotFoundError) if the streets' trunk isn't in ``$DETECTRON2_DATASETS``.
    """
    name, config = SETS[set_of(run.system)]
    datasets = Path(os.environ.get("DETECTRON2_DATASETS", "datasets"))
    for split in ("train", "val") if run.data != "sharp" else ():
        target = _target(folder, name, split, run.data)
        if not target.with_suffix(".json").exists():
            write_set(datasets, f"{name}_{split}", run.data, target)
    trunk = str(first_weights(folder)) if name == "visdrone" else ""
    file = Path(_first_weights(run, folder) or trunk)
    if file.name.startswith("drawn") and not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        seed_all_rng(run.seed)
        model = build_model(load_config(str(config)))
        if trunk:
            ENLCheckpointer(model).load(trunk)
        with whole_file(file) as stream:
            torch.save({"model": model.state_dict()}, stream)


def _target(folder: Path, name: str, split: str, level: str) -> Path:
    return folder / f"{name}_{split}_{level}"


def _first_weights(run: Setting, folder: Path) -> str:
    """The plain detector as it is drawn for a seed; the wider one has other shapes, and draws its
    own."""
    if not run.system.endswith("wider"):
        return str(folder / f"drawn_{set_of(run.system)}_{run.seed}.pth")
    return str(folder / "trunk.pth") if set_of(run.system) == "streets" else ""
