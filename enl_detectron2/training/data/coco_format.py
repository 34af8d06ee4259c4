"""COCO-format data sets that a configuration names, without code."""

import functools
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json

from enl_detectron2.training.errors import ConfigError, MissingFile


def register_coco_format(entries: Sequence[Sequence[str]]) -> None:
    """Registers the sets of ``cfg.DATASETS.COCO_FORMAT`` for training and testing.

    As detectron2's ``register_coco_instances``, and the keypoints' names go into the metadata too.

    Args:
        entries: ``[name, annotation file, image folder]`` each. A relative path is looked up in
            ``$DETECTRON2_DATASETS``, if that is set, then in the working directory.

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
        if name not in DatasetCatalog.list():
            DatasetCatalog.register(name, functools.partial(_load, name, json_file, image_root))
            MetadataCatalog.get(name).set(
                json_file=json_file, image_root=image_root, evaluator_type="coco"
            )
            continue
        metadata = MetadataCatalog.get(name)
        known = (metadata.get("json_file"), metadata.get("image_root"))
        if known != (json_file, image_root):
            raise ConfigError(
                f"DATASETS.COCO_FORMAT: {name!r} stands for {known[0] or 'a built-in set'} already;"
                f" give {json_file} another name"
            )


def _load(name: str, json_file: str, image_root: str) -> list[dict[str, Any]]:
    records = load_coco_json(json_file, image_root, name)
    has_keypoints = any("keypoints" in o for record in records for o in record["annotations"])
    # The file is read again, but not if detectron2 has found no keypoints in it.
    for category in json.loads(Path(json_file).read_bytes())["categories"] if has_keypoints else ():
        if category.get("keypoints"):
            names = list(category["keypoints"])
            MetadataCatalog.get(name).set(
                keypoint_names=names, keypoint_flip_map=keypoint_flip_map(names)
            )
            break
    return records


def keypoint_flip_map(names: Sequence[str]) -> list[tuple[str, str]]:
    """The pairs of keypoints that change places in a mirrored image: those of "left" and "right".

    Args:
        names: of a category's keypoints, as "left_eye"; what has no counterpart mirrors itself.
    """
    swaps = (("left", "right"), ("Left", "Right"), ("LEFT", "RIGHT"))
    pairs = ((name, name.replace(left, right)) for name in names for left, right in swaps)
    return [(left, right) for left, right in pairs if left != right and right in names]


def _find(name: str, kind: str, path: str, exists) -> Path:
    roots = [Path(root).expanduser() for root in _roots()]
    for root in roots:
        if exists(root / path):
            return (root / path).resolve()
    looked_in = "" if os.path.isabs(path) else " in " + " or ".join(map(str, roots))
    raise MissingFile(f"DATASETS.COCO_FORMAT: {name!r} has no {kind} {path}{looked_in}")


def _roots() -> list[str]:
    datasets = os.environ.get("DETECTRON2_DATASETS")
    return ([datasets] if datasets else []) + [os.getcwd()]
