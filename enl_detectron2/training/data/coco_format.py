"""COCO-format data sets that a configuration names, without code."""

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances

from enl_detectron2.utils.errors import ConfigError, MissingFile

from .coco_file import CocoFile, file_for_detectron2, read_coco

logger = logging.getLogger(__name__)


def register_coco_format(
    entries: Sequence[Sequence[str]], *, keypoints: bool = False, output_dir: str | None = None
) -> None:
    """Registers the sets of ``cfg.DATASETS.COCO_FORMAT`` for training and testing.

    detectron2 loads and evaluates them by its own functions. Where it would read something else
    than is meant, see :mod:`.coco_file`, it is given a copy of the annotation file.

    Args:
        entries: ``[name, annotation file, image folder]`` each. A relative path is looked up in
            ``$DETECTRON2_DATASETS``, if that is set, then in the working directory.
        keypoints: whether the names of keypoints, which the files' categories list, go into the
            metadata, as a mapper of keypoints needs them. The files are read for it.
        output_dir: of a run, whose folder ``annotations`` gets such copies, written anew each time;
            without, they are temporary.

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
            readable = _readable(name, json_file, output_dir)
            origin = {"coco_format": (json_file, image_root)}
            register_coco_instances(name, origin, readable, image_root)
        metadata = MetadataCatalog.get(name)
        known = coco_format_of(name) or (metadata.get("json_file"), metadata.get("image_root"))
        if known != (json_file, image_root):
            raise ConfigError(
                f"DATASETS.COCO_FORMAT: {name!r} stands for {known[0] or 'a built-in set'} already;"
                f" give {json_file} another name"
            )
        if keypoints:
            _name_keypoints(name, json_file)


def _name_keypoints(name: str, json_file: str) -> None:
    try:
        names = keypoint_names(read_coco(json_file))
    except ValueError:
        return  # as above
    if names:
        MetadataCatalog.get(name).set(
            keypoint_names=names, keypoint_flip_map=keypoint_flip_map(names)
        )


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

    The metadata's ``json_file`` may be a copy that was made for detectron2.
    """
    return MetadataCatalog.get(name).get("coco_format")


def _readable(name: str, json_file: str, output_dir: str | None) -> str:
    target = output_dir and Path(output_dir, "annotations", f"{quote(name, safe=' ')}.json")
    try:
        copy = str(file_for_detectron2(read_coco(json_file), target or None))
    except ValueError:
        return json_file  # what is wrong with it is said if the set is used
    if copy != json_file:
        logger.info(
            "%r: detectron2 would read %s otherwise (as a missing iscrowd or area), and is given "
            "the completed copy %s",
            name,
            json_file,
            copy,
        )
    return copy


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
