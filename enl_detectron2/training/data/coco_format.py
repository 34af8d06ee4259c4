"""COCO-format data sets that a configuration names, without code."""

import atexit
import contextlib
import functools
import logging
import os
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pycocotools.mask as mask_util
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode

from enl_detectron2.utils.errors import ConfigError, MissingFile

from .check import read_sound
from .coco_file import CocoFile, Entry, read_coco, write_coco

logger = logging.getLogger(__name__)


def register_coco_format(
    entries: Sequence[Sequence[str]],
    *,
    evaluated: Collection[str] | None = None,
    keypoints: bool = False,
    output_dir: str | None = None,
) -> None:
    """Registers the sets of ``cfg.DATASETS.COCO_FORMAT`` for training and testing.

    What is trained on is made of :func:`.coco_file.read_coco`. detectron2's evaluator reads the
    file itself; only where it would read something else, as a missing iscrowd or area, it is given
    a completed copy.

    Args:
        entries: ``[name, annotation file, image folder]`` each. A relative path is looked up in
            ``$DETECTRON2_DATASETS``, if that is set, then in the working directory.
        evaluated: the names of the sets that an evaluator will read; None is all.
        keypoints: whether the names of keypoints, which the files' categories list, go into the
            metadata, as a mapper of keypoints needs them.
        output_dir: of a run, whose folder ``annotations`` gets such copies, written anew each time;
            without, they are removed when the process ends.

    Raises:
        ValueError: if an entry is not three strings, or its name stands for another set already.
        FileNotFoundError: if a file or folder isn't there; names it and where it was looked for.
    """
    for entry in entries:
        if len(entry) != 3 or not all(isinstance(part, str) for part in entry):
            raise ConfigError(
                "DATASETS.COCO_FORMAT takes [name, annotation file, image folder] for each set, "
                f"got {entry!r}"
            )
        name, json_file, image_root = entry
        json_file = str(_find(name, "annotation file", json_file, Path.is_file))
        image_root = str(_find(name, "image folder", image_root, Path.is_dir))
        metadata = MetadataCatalog.get(name)
        if name in DatasetCatalog.list():
            known = coco_format_of(name) or tuple(
                metadata.get(key, "") for key in ("json_file", "image_root")
            )
            if known != (json_file, image_root):
                raise ConfigError(
                    f"DATASETS.COCO_FORMAT: {name!r} stands for {known[0] or 'a built-in set'} "
                    f"already; give {json_file} another name"
                )
            continue
        DatasetCatalog.register(name, functools.partial(_load, name, json_file, image_root))
        about: dict[str, Any] = {"json_file": json_file, "image_root": image_root}
        about["evaluator_type"] = "coco"
        metadata.set(coco_format=(json_file, image_root))
        is_evaluated = evaluated is None or name in evaluated
        # What is wrong with a file is said if the set is used.
        with contextlib.suppress(KeyError, TypeError, ValueError):
            if is_evaluated or keypoints:
                coco = read_coco(json_file)
                if is_evaluated and coco.differs:
                    about["json_file"] = _written_copy(coco, name, output_dir)
                if keypoints and (names := keypoint_names(coco)):
                    about |= {
                        "keypoint_names": names,
                        "keypoint_flip_map": keypoint_flip_map(names),
                    }
                about["thing_classes"] = [one["name"] for one in categories_of(coco)]
        metadata.set(**about)


def sound_coco(name: str, json_file: str, image_root: str) -> tuple[CocoFile, list[str]]:
    """The annotation file of a registered set, and its warnings, of :func:`.check.read_sound`.

    Raises:
        ConfigError: (a ValueError) that names the set.
    """
    try:
        return read_sound(json_file, image_root)
    except ConfigError as error:
        raise ConfigError(f"DATASETS.COCO_FORMAT: {name!r}: {error}") from None


def keypoint_names(coco: CocoFile) -> list[str]:
    """The names of the keypoints that the first category with any has; empty if none has."""
    listed = [category.get("keypoints") for category in coco.categories]
    return next((list(names) for names in listed if isinstance(names, list) and names), [])


def keypoint_flip_map(names: Sequence[str]) -> list[tuple[str, str]]:
    """The pairs of keypoints that change places in a mirrored image: those of "left" and "right".

    Args:
        names: of a category's keypoints, as "left_eye"; what has no counterpart mirrors itself.
    """
    swaps = (("left", "right"), ("Left", "Right"), ("LEFT", "RIGHT"))
    pairs = ((name, name.replace(left, right)) for name in names for left, right in swaps)
    return [(left, right) for left, right in pairs if left != right and right in names]


def coco_format_of(name: str) -> tuple[str, str] | None:
    """The annotation file and the image folder of a set of ``DATASETS.COCO_FORMAT``, or None.

    The metadata's ``json_file`` may be a copy that was made for the evaluator.
    """
    return MetadataCatalog.get(name).get("coco_format")


def categories_of(coco: CocoFile) -> list[Entry]:
    """In the order in which detectron2 numbers them."""
    return sorted(coco.categories, key=lambda category: category["id"])


def _load(name: str, json_file: str, image_root: str) -> list[dict[str, Any]]:
    """The records that detectron2's ``load_coco_json`` makes of a file without faults."""
    coco, _ = sound_coco(name, json_file, image_root)
    categories = categories_of(coco)
    numbers = {category["id"]: number for number, category in enumerate(categories)}
    MetadataCatalog.get(name).set(
        thing_classes=[category["name"] for category in categories],
        thing_dataset_id_to_contiguous_id=numbers,
    )
    objects = defaultdict(list)
    for entry in coco.annotations:
        objects[entry["image_id"]].append(_object(entry, numbers))
    return [
        {
            "file_name": os.path.join(image_root, image["file_name"]),
            "height": image["height"],
            "width": image["width"],
            "image_id": image["id"],
            "annotations": objects[image["id"]],
        }
        for image in sorted(coco.images, key=lambda image: image["id"])
    ]


def _object(entry: Entry, numbers: dict[Any, int]) -> dict[str, Any]:
    made = {"iscrowd": entry["iscrowd"], "bbox": entry["bbox"], "bbox_mode": BoxMode.XYWH_ABS}
    made["category_id"] = numbers[entry["category_id"]]
    if mask := entry.get("segmentation"):
        is_plain = isinstance(mask, dict) and isinstance(mask["counts"], list)
        made["segmentation"] = mask_util.frPyObjects(mask, *mask["size"]) if is_plain else mask
    if points := entry.get("keypoints"):
        # COCO's are whole pixels, detectron2's are points in them, half a pixel on.
        made["keypoints"] = [v if at % 3 == 2 else v + 0.5 for at, v in enumerate(points)]
    return made


def _written_copy(coco: CocoFile, name: str, output_dir: str | None) -> str:
    folder = Path(output_dir, "annotations") if output_dir else Path(_temporary_folder())
    folder.mkdir(parents=True, exist_ok=True)
    copy = folder / f"{quote(name, safe=' ')}.json"
    write_coco(coco, copy)
    logger.info(
        "%r: the evaluator would read %s otherwise (as a missing iscrowd or area), and is given "
        "the completed copy %s",
        name,
        coco.path,
        copy,
    )
    return str(copy)


@functools.cache
def _temporary_folder() -> str:
    folder = tempfile.mkdtemp(prefix="coco_format_")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _find(name: str, kind: str, path: str, exists) -> Path:
    datasets = os.environ.get("DETECTRON2_DATASETS")
    roots = [Path(root).expanduser() for root in ([datasets] if datasets else []) + [os.getcwd()]]
    for root in roots:
        if exists(root / path):
            return (root / path).resolve()
    looked_in = "" if os.path.isabs(path) else " in " + " or ".join(map(str, roots))
    raise MissingFile(f"DATASETS.COCO_FORMAT: {name!r} has no {kind} {path}{looked_in}")
