"""COCO-format data sets that a configuration names, without code."""

import json
import os
from collections.abc import Sequence
from pathlib import Path

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances

from enl_detectron2.training.errors import ConfigError, MissingFile


def register_coco_format(entries: Sequence[Sequence[str]], *, keypoints: bool = False) -> None:
    """Registers the sets of ``cfg.DATASETS.COCO_FORMAT`` for training and testing.

    Args:
        entries: ``[name, annotation file, image folder]`` each. A relative path is looked up in
            ``$DETECTRON2_DATASETS``, if that is set, then in the working directory.
        keypoints: whether the names of keypoints, which the files' categories list, go into the
            metadata, as a mapper of keypoints needs them. The files are read for it.

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
            register_coco_instances(name, {}, json_file, image_root)
        metadata = MetadataCatalog.get(name)
        known = (metadata.get("json_file"), metadata.get("image_root"))
        if known != (json_file, image_root):
            raise ConfigError(
                f"DATASETS.COCO_FORMAT: {name!r} stands for {known[0] or 'a built-in set'} already;"
                f" give {json_file} another name"
            )
        if keypoints:
            _name_keypoints(name, json_file)


def _name_keypoints(name: str, json_file: str) -> None:
    try:
        categories = json.loads(Path(json_file).read_bytes())["categories"]
        listed = [category["keypoints"] for category in categories if category.get("keypoints")]
    except (ValueError, LookupError, TypeError, AttributeError):
        return  # the check of the file says what is wrong
    if listed:
        MetadataCatalog.get(name).set(
            keypoint_names=list(listed[0]), keypoint_flip_map=keypoint_flip_map(listed[0])
        )


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
