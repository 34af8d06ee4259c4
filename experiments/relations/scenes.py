"""The scenes of the digits' grid: three levels of difficulty, four relations."""

from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from scenes import SceneConfig, write_relational_digits

IMAGE_SIZE = 224
NUM_TINY = (10, 16)
COUNTS = {"num_train": 4000, "num_test": 500}

# What a tiny digit looks like: side in pixels, contrast, noise. What each leaves to be gained from
# the rest of the scene is in results/headroom.json.
LEVELS = {
    "clear": SceneConfig(tiny_side=(12, 18), contrast=0.35, noise=0.13),
    "faint": SceneConfig(tiny_side=(10, 14), contrast=0.3, noise=0.2),
    "hidden": SceneConfig(tiny_side=(10, 14), contrast=0.3, noise=0.25),
}
MAIN_LEVEL = "faint"
RELATIONS = ("both", "repeats", "large", "none")
MAIN_RELATION = "both"
# Where a large relative is alone a scene has one tiny digit to learn from, a thirteenth of the main
# setting's: a variant "large ×6" has that many times as many scenes, and as many steps.
TIMES = " ×"


class Setting(Protocol):
    """A run of the grid, as far as its scenes go."""

    data: str  # a level
    variant: str  # a relation, or one of more scenes


def options(run: Setting, folder: Path) -> dict[str, Any]:
    """What names a run's scenes in a configuration; they lie in a folder below this one."""
    data = _folder(run, folder)
    names = {split: f"{data.name}_{split}" for split in ("train", "test")}
    sets = [[name, f"{data}/{split}.json", f"{data}/{split}"] for split, name in names.items()]
    return {
        "DATASETS.COCO_FORMAT": sets,
        "DATASETS.TRAIN": (names["train"],),
        "DATASETS.TEST": (names["test"],),
    }


def prepare(run: Setting, folder: Path) -> None:
    """Writes a run's scenes, unless they are there."""
    relation, _, times = run.variant.partition(TIMES)
    counts = COUNTS | {"num_train": COUNTS["num_train"] * int(times or 1)}
    write_relational_digits(_folder(run, folder), **counts, config=scene_config(run.data, relation))


def _folder(run: Setting, folder: Path) -> Path:
    return folder / f"{run.data}_{run.variant}".replace(" ", "-")


def scene_config(level: str, relation: str) -> SceneConfig:
    """The scenes of a level in which a tiny digit has this relation to the rest."""
    return replace(
        LEVELS[level],
        image_size=IMAGE_SIZE,
        large_side=(40, 56),
        num_tiny=NUM_TINY,
        relation=relation,
    )
