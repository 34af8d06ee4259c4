"""Whether the data sets of a run fit it and each other, before anything starts."""

import logging
import os
from collections.abc import Sequence
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils import comm

from enl_detectron2.utils.errors import ConfigError

from .coco_file import CocoFile, id_of, read_coco
from .coco_format import categories_of, coco_format_of, register_coco_format, sound_coco

logger = logging.getLogger(__name__)


def prepare_sets(
    train: Sequence[str],
    test: Sequence[str],
    *,
    coco_format: Sequence[Sequence[str]],
    keypoints: bool,
    output_dir: str,
    **of_model: Any,
) -> None:
    """Registers the sets that a configuration names, and checks all that it trains or tests on.

    Args:
        train, test: as of :func:`require_sets`.
        coco_format, keypoints, output_dir: as of :func:`.coco_format.register_coco_format`.
        of_model: as of :func:`check_data_sets`.

    Raises:
        ConfigError: (a ValueError) that names the set.
    """
    register_coco_format(coco_format, evaluated=test, keypoints=keypoints, output_dir=output_dir)
    require_sets(train, test)
    if comm.get_local_rank() == 0:  # once on each machine, which has files of its own
        check_data_sets(train, test, **of_model)


def require_sets(train: Sequence[str], test: Sequence[str]) -> None:
    """Checks that data sets are registered.

    Args:
        train: names of sets to train on.
        test: names of sets to evaluate on, which detectron2 looks up when the training is over.

    Raises:
        ConfigError: (a ValueError) that names the set.
    """
    for key, names in {"DATASETS.TRAIN": train, "DATASETS.TEST": test}.items():
        for name in names:
            if name not in DatasetCatalog:
                raise ConfigError(
                    f"{key} (in a LazyConfig dataset.names) names {name!r}, but no data set of "
                    "this name is registered; is one in DATASETS.COCO_FORMAT missing?"
                )


def class_names(sets: Sequence[str]) -> list[str]:
    """What the first of some sets calls its classes; none if it doesn't say.

    One that is trained on says so once it is loaded.
    """
    return list(MetadataCatalog.get(sets[0]).get("thing_classes", [])) if sets else []


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
    categories, files = {}, {}
    for name in dict.fromkeys((*train, *test)):
        entry = coco_format_of(name)
        if entry is None:
            categories[name] = _known_categories(name)
            continue
        coco, warnings = sound_coco(name, *entry)
        for warning in warnings:
            logger.warning("%s", warning)
        if masks:
            _require_masks(name, coco, mask_format if name in train else None)
        if name in train and filter_empty:
            _require_trainable(name, coco)
        categories[name] = [(one["name"], one["id"]) for one in categories_of(coco)]
        root = os.path.realpath(entry[1])
        files[name] = {os.path.normpath(os.path.join(root, i["file_name"])) for i in coco.images}
    categories = {name: known for name, known in categories.items() if known is not None}
    _require_same_categories(categories)
    for name, known in categories.items():
        _require_classes(name, len(known), name in test, num_classes, num_classes_key)
    for name in sorted(set(test) & files.keys()):
        shared = files[name] & set().union(*(files[other] for other in train if other in files))
        if shared:
            logger.warning(
                "%d of the %d photographs of %r are trained on, too, such as %s: its AP says "
                "nothing about new ones",
                len(shared),
                len(files[name]),
                name,
                min(shared),
            )


def _require_trainable(name: str, coco: CocoFile) -> None:
    images = {id_of(image) for image in coco.images}
    if not any(one["image_id"] in images and not one["iscrowd"] for one in coco.annotations):
        raise ConfigError(
            f"DATASETS.TRAIN: no image of {name!r} ({coco.path}) has an annotation that is no "
            "crowd, so nothing is left to train on; DATALOADER.FILTER_EMPTY_ANNOTATIONS False "
            "keeps images without"
        )


def _require_masks(name: str, coco: CocoFile, mask_format: str | None) -> None:
    """``mask_format`` is that of a training; None is an evaluation, which takes either format.

    An evaluation needs the crowds' masks, too.
    """
    entries = [entry for entry in coco.annotations if mask_format is None or not entry["iscrowd"]]
    lacking = [entry["id"] for entry in entries if not entry.get("segmentation")]
    if lacking:
        raise ConfigError(
            f"MODEL.MASK_ON must be False for {name!r} ({coco.path}): {len(lacking)} of its "
            f"annotations have no mask that can be used, the first of them {lacking[0]}"
        )
    run_lengths = [entry["id"] for entry in entries if isinstance(entry["segmentation"], dict)]
    if run_lengths and mask_format == "polygon":
        raise ConfigError(
            f"INPUT.MASK_FORMAT must be 'bitmask' for {name!r} ({coco.path}), as {len(run_lengths)}"
            f" of its masks are run lengths and no polygons, the first that of annotation "
            f"{run_lengths[0]}"
        )


def _require_same_categories(categories: dict[str, list[tuple]]) -> None:
    """A model knows classes by number, which detectron2 gives them in the order of their ids."""
    if not categories:
        return
    (first, expected), *others = categories.items()
    for name, found in others:
        length = max(len(expected), len(found))
        padded = [each + [None] * (length - len(each)) for each in (expected, found)]
        for number, (one, other) in enumerate(zip(*padded)):
            if one is None or other is None or one[0] != other[0]:
                raise ConfigError(
                    f"DATASETS: the sets {first!r} and {name!r} must have the same categories in "
                    f"the same order of their ids, but class {number} is {_named(one)} in "
                    f"{first!r} and {_named(other)} in {name!r}"
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


def _known_categories(name: str) -> list[tuple] | None:
    """(name, id) of a set that isn't of ``DATASETS.COCO_FORMAT``; None if they aren't known yet."""
    metadata = MetadataCatalog.get(name)
    if names := metadata.get("thing_classes"):
        numbers = metadata.get("thing_dataset_id_to_contiguous_id", {})
        ids = {number: id_ for id_, number in numbers.items()}
        return [(name, ids.get(number)) for number, name in enumerate(names)]
    try:
        return [(one["name"], one["id"]) for one in categories_of(read_coco(metadata.json_file))]
    except (AttributeError, KeyError, OSError, TypeError, ValueError):
        return None  # detectron2 says what is wrong with it when it reads it


def _named(category: tuple | None) -> str:
    if category is None:
        return "none"
    name, id_ = category
    return repr(name) if id_ is None else f"{name!r} (category {id_})"
