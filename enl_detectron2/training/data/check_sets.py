"""Whether the data sets of a run fit it and each other, before anything starts."""

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from detectron2.data import MetadataCatalog

from enl_detectron2.utils.errors import ConfigError

from .check import check_annotations
from .coco_file import CocoFile, Entry, id_of, read_coco
from .coco_format import coco_format_of
from .segmentation import is_run_lengths, usable_segmentation

logger = logging.getLogger(__name__)


class Category(NamedTuple):
    id: int | str | None  # None if it isn't known
    name: str


def check_data_sets(
    train: Sequence[str],
    test: Sequence[str],
    *,
    num_classes: int | None = None,
    num_classes_key: str = "MODEL.ROI_HEADS.NUM_CLASSES",
    masks: bool = False,
    mask_format: str = "polygon",
    filter_empty: bool = True,
) -> None:
    """Raises if the data sets of a run have errors, or don't fit it or each other; logs warnings.

    Sets of ``DATASETS.COCO_FORMAT`` are read; of others it is compared what is known of them.

    Args:
        train: names of registered sets to train on; none if nothing is trained.
        test: names of registered sets to evaluate on.
        num_classes: of the model; None if it isn't known.
        num_classes_key: of the configuration, to be named.
        masks: whether the model has a mask head.
        mask_format: "polygon" or "bitmask", as ``INPUT.MASK_FORMAT``.
        filter_empty: whether images without annotations are left out of training.

    Raises:
        ConfigError: (a ValueError) at the first thing that is wrong; one sentence.
    """
    categories = {}
    for name in dict.fromkeys((*train, *test)):
        entry = coco_format_of(name)
        if entry is None:
            known = _known_categories(name)
        else:
            coco = require_sound(name, *entry)
            if masks:
                require_masks(name, coco, mask_format if name in train else None)
            if name in train and filter_empty:
                require_trainable(name, coco)
            known = _categories(coco.categories)
        if known is not None:
            categories[name] = known
    require_same_categories(categories)
    for name, known in categories.items():
        _require_classes(name, len(known), name in test, num_classes, num_classes_key)


def require_sound(name: str, json_file: str | Path, image_root: str | Path) -> CocoFile:
    """Raises if a registered data set has errors that show without decoding images; logs warnings.

    Returns the annotation file.

    Args:
        name: of the set in ``DATASETS.COCO_FORMAT``.
        json_file: its annotation file.
        image_root: its image folder.

    Raises:
        ConfigError: (a ValueError) with the first error and how to see all; or as
            :func:`.coco_file.read_coco`.
    """
    try:
        coco = read_coco(json_file)
    except (OSError, ValueError) as error:
        raise ConfigError(f"DATASETS.COCO_FORMAT: {name!r}: {error}") from None
    findings = check_annotations(coco, image_root)
    all_of_them = f"python tools/check_dataset.py {json_file} {image_root}"
    errors = [finding for finding in findings if finding.is_error]
    if errors:
        raise ConfigError(
            f"DATASETS.COCO_FORMAT: {name!r} can't be used with {len(errors)} errors such as "
            f"{str(errors[0]).removeprefix('error: ')} (all of them: {all_of_them})"
        )
    for kind, count in Counter(finding.kind for finding in findings).items():
        first = next(finding for finding in findings if finding.kind == kind)
        others = f" (and {count - 1} more: {all_of_them})" if count > 1 else ""
        logger.warning("%s%s", str(first).removeprefix("warning: "), others)
    return coco


def require_trainable(name: str, coco: CocoFile) -> None:
    """Raises ConfigError, a ValueError, if a training would leave out every image of the set."""
    images = {id_of(image) for image in coco.images} - {None}
    objects = (entry for entry in coco.annotations if not entry["iscrowd"])
    if not any(id_of(entry, "image_id") in images for entry in objects):
        raise ConfigError(
            f"DATASETS.TRAIN: no image of {name!r} ({coco.path}) has an annotation that is no "
            "crowd, so nothing is left to train on; DATALOADER.FILTER_EMPTY_ANNOTATIONS False "
            "keeps images without"
        )


def require_masks(name: str, coco: CocoFile, mask_format: str | None) -> None:
    """Raises ConfigError, a ValueError, if a model with masks can't use an annotation's.

    Args:
        name: of the set.
        coco: its annotation file.
        mask_format: of the training, "polygon" or "bitmask"; None if it isn't trained on, but
            evaluated, which takes either, and needs the crowds' masks, too.
    """
    entries = [entry for entry in coco.annotations if mask_format is None or not entry["iscrowd"]]
    lacking = list(_without_mask(coco, entries))
    if lacking:
        entry, fault = lacking[0]
        raise ConfigError(
            f"MODEL.MASK_ON must be False for {name!r} ({coco.path}): {len(lacking)} of its "
            "annotations have no mask that can be used, the first of them "
            f"{entry['id']}, whose segmentation {fault}"
        )
    run_lengths = [entry["id"] for entry in entries if is_run_lengths(entry["segmentation"])]
    if run_lengths and mask_format == "polygon":
        raise ConfigError(
            f"INPUT.MASK_FORMAT must be 'bitmask' for {name!r} ({coco.path}), as {len(run_lengths)}"
            f" of its masks are run lengths and no polygons, the first that of annotation "
            f"{run_lengths[0]}"
        )


def _without_mask(coco: CocoFile, entries: list[Entry]) -> Iterator[tuple[Entry, str]]:
    sizes = {id_of(image): (image["height"], image["width"]) for image in coco.images}
    for entry in entries:
        size = sizes.get(id_of(entry, "image_id"))
        usable, fault = usable_segmentation(entry.get("segmentation"), size)
        if usable is None:
            yield entry, fault


def require_same_categories(categories: dict[str, list[Category]]) -> None:
    """Raises ConfigError, a ValueError, unless all sets number the same categories alike.

    A model knows classes by number, which detectron2 gives them in the order of their ids.

    Args:
        categories: of each set, in this order; all are compared to the first set's.
    """
    if not categories:
        return
    (first, expected), *others = categories.items()
    for name, found in others:
        for number, (one, other) in enumerate(zip(expected, found)):
            if one.name != other.name:
                raise ConfigError(
                    f"DATASETS: the sets {first!r} and {name!r} must have the same categories in "
                    f"the same order of their ids, but class {number} is {_named(one)} in "
                    f"{first!r} and {_named(other)} in {name!r}"
                )
        if len(expected) != len(found):
            number = min(len(expected), len(found))
            longer, shorter = (first, name) if len(expected) > len(found) else (name, first)
            extra = max(expected, found, key=len)[number]
            raise ConfigError(
                f"DATASETS: the sets {first!r} and {name!r} must have the same categories in "
                f"the same order of their ids, but {longer!r} has {_named(extra)} as class "
                f"{number} and {shorter!r} has {number} categories only"
            )


def _require_classes(
    name: str, count: int, is_test: bool, num_classes: int | None, key: str
) -> None:
    if num_classes is None:
        return
    if num_classes < count:
        raise ConfigError(
            f"{key} must be at least {count}, the number of categories of {name!r}, "
            f"got {num_classes}"
        )
    if num_classes > count and is_test:
        raise ConfigError(
            f"{key} must be {count}, the number of categories of {name!r}, got {num_classes}: "
            "the evaluation stops at a detection of a class that the set doesn't have"
        )


def _known_categories(name: str) -> list[Category] | None:
    """Of a set that isn't of ``DATASETS.COCO_FORMAT``; None if they aren't known yet."""
    metadata = MetadataCatalog.get(name)
    names = metadata.get("thing_classes")
    if names:
        numbers = metadata.get("thing_dataset_id_to_contiguous_id", {})
        ids = {number: id_ for id_, number in numbers.items()}
        return [Category(ids.get(number), name) for number, name in enumerate(names)]
    try:
        return _categories(read_coco(metadata.json_file).categories)
    except (AttributeError, KeyError, OSError, TypeError, ValueError):
        return None  # detectron2 says what is wrong with it when it reads it


def _categories(entries: list[Entry]) -> list[Category]:
    """In the order in which detectron2 numbers them."""
    return sorted(Category(entry["id"], entry["name"]) for entry in entries)


def _named(category: Category) -> str:
    number = "" if category.id is None else f" (category {category.id})"
    return f"{category.name!r}{number}"
