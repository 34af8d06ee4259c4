"""What is wrong with a COCO-format data set, before a training finds out; and what is in it.

:func:`read_coco` and :func:`check_annotations` look at the annotation file and at which images are
there, which takes seconds; :func:`check_images` decodes every image.
"""

import json
import logging
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from numbers import Real
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from enl_detectron2.training.errors import BadImage, ConfigError

from .images import read_image

TOLERANCE = 1.0  # pixels that a box may stick out of its image: annotation tools round
SMALL, MEDIUM = 32**2, 96**2  # pixels, COCO's limits of small and medium objects
PYRAMID_LEVELS = 5  # p2 to p6, with one anchor size each
ANCHOR_SIZES = (4, 6, 8, 12, 16, 24, 32)  # to choose from for p2, in pixels

logger = logging.getLogger(__name__)


class Finding(NamedTuple):
    """Something that is wrong with a data set."""

    # Whether the set can't be trained or evaluated on as it is, or would silently be taken for
    # something else. What detectron2 copes with by itself is no error.
    is_error: bool
    # The file that it is found in.
    file: Path
    # Which part of the file, such as "annotation 17".
    part: str
    # What kind of thing it is, the same words for all of a kind.
    kind: str
    # The values.
    detail: str = ""

    def __str__(self) -> str:
        level = "error" if self.is_error else "warning"
        detail = f": {self.detail}" if self.detail else ""
        return f"{level}: {self.file}: {self.part} {self.kind}{detail}"


class CocoFile(NamedTuple):
    """A COCO-format annotation file; every entry is a dict."""

    path: Path
    images: list[dict[str, Any]]
    annotations: list[dict[str, Any]]
    categories: list[dict[str, Any]]


def read_coco(json_file: str | Path) -> CocoFile:
    """Reads a COCO-format annotation file.

    Raises:
        ValueError: if it is no JSON or has another format; one sentence.
        FileNotFoundError: if it isn't there.
    """
    path = Path(json_file)
    if not path.is_file():
        raise FileNotFoundError(f"there is no annotation file {path}")
    try:
        content = json.loads(path.read_bytes())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no whole JSON file, perhaps it was cut off: {error}") from None
    if not isinstance(content, dict):
        raise ValueError(
            f"{path} is not in COCO format: it must hold an object with the lists images, "
            f"annotations and categories, not a {type(content).__name__}"
        )
    lists = []
    for name in ("images", "annotations", "categories"):
        # A test set may come without annotations.
        entries = content.get(name, [] if name == "annotations" else None)
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise ValueError(
                f"{path} is not in COCO format: {name!r} must be a list of objects, "
                + ("but it isn't" if name in content else "but it isn't there")
            )
        lists.append(entries)
    return CocoFile(path, *lists)


def check_annotations(coco: CocoFile, image_root: str | Path) -> list[Finding]:
    """The findings that need no image to be decoded.

    Args:
        coco: the annotation file.
        image_root: the folder that its file names are relative to.
    """
    return [
        *_check_ids(coco),
        *_check_categories(coco),
        *_check_image_entries(coco, Path(image_root)),
        *_check_annotation_entries(coco),
    ]


def check_images(
    coco: CocoFile, image_root: str | Path, deep_images: str = "refuse"
) -> list[Finding]:
    """The images that can't be decoded, or have another size than the annotation file says.

    Missing ones are :func:`check_annotations`'s. Sizes are after the rotation that the image's
    EXIF data ask for, as detectron2 reads it.
    """
    findings = []
    for image in coco.images:
        file = _file_of(image, Path(image_root))
        if file is None or not file.is_file():
            continue
        part = f"(image {image.get('id')})"
        try:
            height, width = read_image(file, deep_images=deep_images).shape[:2]
        except BadImage as error:
            reason = str(error).removeprefix(f"{file} can't be read: ")
            findings.append(Finding(True, file, part, "can't be read", reason))
            continue
        said = (image.get("width"), image.get("height"))
        if said != (width, height):
            detail = f"{said[0]}×{said[1]} in {coco.path}, but it is {width}×{height}"
            findings.append(Finding(True, file, part, "has another size than it should", detail))
    return findings


def require_sound(name: str, json_file: str | Path, image_root: str | Path) -> CocoFile:
    """Raises if a registered data set has errors that show without decoding images; logs warnings.

    Returns the annotation file.

    Args:
        name: of the set in ``DATASETS.COCO_FORMAT``.
        json_file: its annotation file.
        image_root: its image folder.

    Raises:
        ValueError: with the first error and how to see all; or as :func:`read_coco` does.
    """
    try:
        coco = read_coco(json_file)
    except ValueError as error:
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
    images = {_id(image) for image in coco.images} - {None}
    objects = (entry for entry in coco.annotations if not entry.get("iscrowd"))
    if not any(_id(entry, "image_id") in images for entry in objects):
        raise ConfigError(
            f"DATASETS.TRAIN: no image of {name!r} ({coco.path}) has an annotation that is no "
            "crowd, so nothing is left to train on; DATALOADER.FILTER_EMPTY_ANNOTATIONS False "
            "keeps images without"
        )


def require_masks(name: str, coco: CocoFile) -> None:
    """Raises ConfigError, a ValueError, if an object has a box but no mask."""
    lacking = [
        entry.get("id")
        for entry in coco.annotations
        if not entry.get("iscrowd") and not entry.get("segmentation")
    ]
    if lacking:
        raise ConfigError(
            f"MODEL.MASK_ON must be False for {name!r} ({coco.path}): {len(lacking)} of its "
            f"annotations, the first of them {lacking[0]}, have no segmentation"
        )


def describe(coco: CocoFile) -> str:
    """What is in a data set, and which settings follow from it, as lines of text."""
    boxes = [entry for entry in coco.annotations if _is_box(entry) and not entry.get("iscrowd")]
    sides = np.sqrt([entry["bbox"][2] * entry["bbox"][3] for entry in boxes])
    areas = np.array([_area(entry) for entry in boxes])
    per_image = Counter(_id(entry, "image_id") for entry in boxes)
    counts = np.array([per_image[_id(image)] for image in coco.images])
    per_category = Counter(_id(entry, "category_id") for entry in boxes)
    crowds = sum(bool(entry.get("iscrowd")) for entry in coco.annotations)

    lines = [f"images              {len(coco.images):,}"]
    lines.append(
        f"boxes               {len(boxes):,}" + (f", and {crowds:,} crowds" if crowds else "")
    )
    for category in coco.categories:
        count = per_category[_id(category)]
        lines.append(f"  category {category.get('id')}: {category.get('name')}, {count:,} boxes")
    if not boxes or not coco.images:
        return "\n".join(lines)
    sizes = {
        "small": areas < SMALL,
        "medium": (areas >= SMALL) & (areas < MEDIUM),
        "large": areas >= MEDIUM,
    }
    shares = (f"{name} {100 * members.mean():.1f} %" for name, members in sizes.items())
    lines.append("boxes by COCO size  " + ", ".join(shares))
    lines.append(
        f"objects per image   median {np.median(counts):g}, mean {counts.mean():.1f}, at most "
        f"{counts.max()}; {np.sum(counts == 0):,} images have none"
    )
    smallest, limit = suggest_anchor_size(sides), suggest_detections(int(counts.max()))
    anchors = [[smallest * 2**level] for level in range(PYRAMID_LEVELS)]
    lines += [
        "suggested",
        f"  MODEL.ANCHOR_GENERATOR.SIZES {anchors}",
        f"    19 of 20 boxes are at least {np.percentile(sides, 5):.0f} pixels wide and high "
        "(√area), here in the files; scale both by what INPUT.MIN_SIZE_… does",
        f"  TEST.DETECTIONS_PER_IMAGE {limit}",
        f"    the fullest image holds {counts.max()} objects, and what a model finds beyond this "
        "number is lost",
    ]
    return "\n".join(lines)


def suggest_anchor_size(sides: Sequence[float]) -> int:
    """The anchor size of the finest level of a pyramid: 4, 6, 8, 12, 16, 24 or 32 pixels.

    The largest one that all but a twentieth of the boxes reach: a box overlaps an anchor of up to
    √2 times its side by half at least. Never above detectron2's own, as larger objects have the
    coarser levels' anchors.

    Args:
        sides: square roots of the boxes' areas, in pixels.
    """
    reach = math.sqrt(2) * float(np.percentile(sides, 5))
    return max((size for size in ANCHOR_SIZES if size <= reach), default=ANCHOR_SIZES[0])


def suggest_detections(most_objects: int) -> int:
    """A limit of detections per image: the next hundred, at least COCO's own 100."""
    return max(100, 100 * math.ceil(most_objects / 100))


def _check_ids(coco: CocoFile) -> Iterator[Finding]:
    kinds = {"image": coco.images, "annotation": coco.annotations, "category": coco.categories}
    for kind, entries in kinds.items():
        for index, entry in enumerate(entries):
            if _id(entry) is None:
                part = f"{kind} at place {index}"
                yield Finding(True, coco.path, part, "has no number as its id")
        for id_, count in Counter(_id(entry) for entry in entries).items():
            if id_ is not None and count > 1:
                part = f"{kind} {id_}"
                yield Finding(True, coco.path, part, "is there more than once", f"{count} times")
    for entry in coco.annotations:
        if _id(entry) == 0:
            yield Finding(
                False, coco.path, "annotation 0", "never counts as found in COCO's evaluation"
            )


def _check_categories(coco: CocoFile) -> Iterator[Finding]:
    ids = sorted(category["id"] for category in coco.categories if _id(category) is not None)
    if not coco.categories:
        yield Finding(True, coco.path, "the file", "has no categories")
    elif ids and ids != list(range(1, len(ids) + 1)):
        yield Finding(
            False,
            coco.path,
            f"categories {ids[0]} to {ids[-1]}",
            "are not numbered 1, 2, 3 … without holes; detectron2 numbers them anew",
            f"{len(ids)} of them",
        )
    used = Counter(_id(entry, "category_id") for entry in coco.annotations)
    names = Counter(str(category.get("name")) for category in coco.categories)
    for category in coco.categories:
        part = f"category {category.get('id')}"
        if not isinstance(category.get("name"), str):
            yield Finding(True, coco.path, part, "has no name")
        elif names[category["name"]] > 1:
            yield Finding(False, coco.path, part, "shares its name", category["name"])
        if coco.annotations and not used[_id(category)]:
            yield Finding(False, coco.path, part, "has no annotations", str(category.get("name")))


def _check_image_entries(coco: CocoFile, image_root: Path) -> Iterator[Finding]:
    if not coco.images:
        yield Finding(True, coco.path, "the file", "has no images")
    files = Counter(_file_of(image, image_root) for image in coco.images)
    for image in coco.images:
        part = f"image {image.get('id')}"
        sizes = [image.get("width"), image.get("height")]
        if not all(isinstance(size, int) and size > 0 for size in sizes):
            detail = f"{sizes[0]}×{sizes[1]}"
            yield Finding(True, coco.path, part, "has no width and height above 0", detail)
        file = _file_of(image, image_root)
        if file is None:
            yield Finding(True, coco.path, part, "has no file_name")
            continue
        if not file.is_file():
            yield Finding(True, file, f"({part} of {coco.path})", "is missing")
        if files[file] > 1:
            detail = image["file_name"]
            yield Finding(False, coco.path, part, "shares its file with another image", detail)


def _check_annotation_entries(coco: CocoFile) -> Iterator[Finding]:
    if not coco.annotations:
        yield Finding(False, coco.path, "the file", "has no annotations")
    images = {_id(image): image for image in coco.images if _id(image) is not None}
    categories = {_id(category) for category in coco.categories}
    for entry in coco.annotations:
        part = f"annotation {entry.get('id')}"
        image = images.get(_id(entry, "image_id"))
        if image is None:
            kind = "is of an image that isn't in the file, and is left out"
            yield Finding(False, coco.path, part, kind, f"image {entry.get('image_id')}")
        if _id(entry, "category_id") not in categories - {None}:
            kind = "is of a category that isn't in the file"
            yield Finding(True, coco.path, part, kind, f"category {entry.get('category_id')}")
        if entry.get("ignore"):
            yield Finding(True, coco.path, part, "is to be ignored, which detectron2 doesn't know")
        if not isinstance(entry.get("area"), Real):
            yield Finding(True, coco.path, part, "has no area, which COCO's evaluation needs")
        yield from _check_box(coco.path, part, entry, image or {})


def _check_box(
    path: Path, part: str, entry: dict[str, Any], image: dict[str, Any]
) -> Iterator[Finding]:
    box = entry.get("bbox")
    detail = f"bbox {box} of image {entry.get('image_id')}, {image.get('file_name')}"
    if not _is_box(entry, sized=False):
        yield Finding(True, path, part, "has no box of four numbers [x, y, width, height]", detail)
        return
    x, y, width, height = box
    if width < 0 or height < 0:
        yield Finding(True, path, part, "has a reversed box, its width or height below 0", detail)
    elif width == 0 or height == 0:
        yield Finding(False, path, part, "has an empty box, which training leaves out", detail)
    elif _has_size(image):
        detail += f" of {image['width']}×{image['height']}"
        beyond = (x + width - image["width"], y + height - image["height"])
        if x >= image["width"] or y >= image["height"] or x + width <= 0 or y + height <= 0:
            yield Finding(True, path, part, "has a box wholly outside its image", detail)
        elif max(-x, -y, *beyond) > TOLERANCE:
            kind = "has a box that sticks out of its image, and is clipped"
            yield Finding(False, path, part, kind, detail)


def _id(entry: dict[str, Any], key: str = "id") -> int | None:
    return entry[key] if isinstance(entry.get(key), int) else None


def _area(entry: dict[str, Any]) -> float:
    """As COCO's evaluation has it, that of the object; of the box if the file lacks it."""
    area = entry.get("area")
    return float(area) if isinstance(area, Real) else math.prod(entry["bbox"][2:])


def _file_of(image: dict[str, Any], image_root: Path) -> Path | None:
    name = image.get("file_name")
    return image_root / name if isinstance(name, str) and name else None


def _has_size(image: dict[str, Any]) -> bool:
    return all(isinstance(image.get(key), int) for key in ("width", "height"))


def _is_box(entry: dict[str, Any], sized: bool = True) -> bool:
    """Whether the entry has a box of four finite numbers, and ``sized``, one with a size."""
    box = entry.get("bbox")
    if not isinstance(box, list) or len(box) != 4:
        return False
    if not all(isinstance(value, Real) and math.isfinite(value) for value in box):
        return False
    return not sized or (box[2] > 0 and box[3] > 0)
