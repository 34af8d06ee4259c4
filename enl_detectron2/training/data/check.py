"""What is wrong with a COCO-format data set, before a training finds out.

:func:`check_annotations` looks at the annotation file and at which images are there, which takes
seconds; :func:`check_images` decodes every image.
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from PIL import ExifTags, Image

from enl_detectron2.utils.errors import BadImage

from .coco_file import (
    CocoFile,
    Entry,
    box_area,
    has_plausible_area,
    has_size,
    id_of,
    is_box,
    is_number,
)
from .images import read_image
from .segmentation import usable_segmentation

LONGEST = 300  # characters of values that a finding shows
# Of the categories that an image of LVIS isn't annotated with, or not in full.
LVIS_KEYS = ("neg_category_ids", "not_exhaustive_category_ids")
# Values of EXIF's orientation that change an image but not its size: mirrored, or turned by 180°.
SAME_SIZE = (2, 3, 4)
TOLERANCE = 1.0  # pixels that a box may stick out of its image: annotation tools round


def line(text: str) -> str:
    """On one line: a file's texts may hold line ends, and commands to a terminal."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


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
        if len(detail) > LONGEST:
            detail = detail[:LONGEST] + "…"
        return line(f"{level}: {self.file}: {self.part} {self.kind}{detail}")


def check_annotations(coco: CocoFile, image_root: str | Path) -> list[Finding]:
    """The findings that need no image to be decoded.

    Args:
        coco: the annotation file.
        image_root: the folder that its file names are relative to.
    """
    return [
        *_check_file(coco),
        *_check_ids(coco),
        *_check_categories(coco),
        *_check_image_entries(coco, Path(image_root)),
        *_check_annotation_entries(coco),
        *_check_same_boxes(coco),
        *_check_corners(coco),
    ]


def check_images(
    coco: CocoFile, image_root: str | Path, deep_images: str = "refuse"
) -> list[Finding]:
    """The images that can't be decoded, or have another size than the annotation file says.

    Missing ones are :func:`check_annotations`'s. Sizes are after the rotation that the image's
    EXIF data ask for, as detectron2 reads it.

    Args:
        coco: the annotation file.
        image_root: the folder that its file names are relative to.
        deep_images: as of :func:`.images.read_image`.
    """
    findings = []
    for image in coco.images:
        file = _file_of(image, Path(image_root))
        if file is None or not _is_file(file):
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
        with Image.open(file) as opened:
            if opened.getexif().get(ExifTags.Base.Orientation) in SAME_SIZE:
                kind = "is turned by 180° or mirrored by its EXIF data; its boxes may not be"
                findings.append(Finding(False, file, part, kind))
    return findings


def _check_file(coco: CocoFile) -> Iterator[Finding]:
    if coco.twice:
        kind = "has objects with a key more than once, of which the last one counts"
        detail = ", ".join(f"{key!r} in {count}" for key, count in coco.twice.items())
        yield Finding(False, coco.path, "the file", kind, detail)
    partly = sum(any(key in image for key in LVIS_KEYS) for image in coco.images)
    if partly:
        yield Finding(
            False,
            coco.path,
            f"{partly} of its images",
            "say as in LVIS what was annotated, which COCO's evaluation doesn't read: it counts "
            "what is found beside as wrong. Use detectron2's register_lvis_instances",
        )


def _check_ids(coco: CocoFile) -> Iterator[Finding]:
    kinds = {"image": coco.images, "annotation": coco.annotations, "category": coco.categories}
    for kind, entries in kinds.items():
        ids = [id_of(entry) for entry in entries]
        for index, id_ in enumerate(ids):
            if isinstance(id_, bool):
                yield Finding(True, coco.path, f"{kind} at place {index}", f"has the id {id_}")
            # COCO's evaluation keeps those of annotations in arrays of numbers.
            if id_ is None or (kind == "annotation" and isinstance(id_, str)):
                part = f"{kind} at place {index}"
                yield Finding(True, coco.path, part, "has no number as its id")
        for id_, count in Counter(ids).items():
            if id_ is not None and count > 1:
                part = f"{kind} {id_}"
                yield Finding(True, coco.path, part, "is there more than once", f"{count} times")
        if {type(id_) for id_ in ids} >= {int, str}:
            number = next(id_ for id_ in ids if isinstance(id_, int))
            text = next(id_ for id_ in ids if isinstance(id_, str))
            part = f"{kind} {number}"
            yield Finding(
                True, coco.path, part, "has a number as its id where others have a text", repr(text)
            )
    for entry in coco.annotations:
        if id_of(entry) == 0:
            yield Finding(
                False, coco.path, "annotation 0", "never counts as found in COCO's evaluation"
            )


def _check_categories(coco: CocoFile) -> Iterator[Finding]:
    ids = sorted(category["id"] for category in coco.categories if isinstance(id_of(category), int))
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
    used = Counter(id_of(entry, "category_id") for entry in coco.annotations)
    names = Counter(str(category.get("name")) for category in coco.categories)
    for category in coco.categories:
        part = f"category {category.get('id')}"
        if not isinstance(category.get("name"), str):
            yield Finding(True, coco.path, part, "has no name")
        elif names[category["name"]] > 1:
            yield Finding(False, coco.path, part, "shares its name", category["name"])
        if coco.annotations and not used[id_of(category)]:
            yield Finding(False, coco.path, part, "has no annotations", str(category.get("name")))


def _check_image_entries(coco: CocoFile, image_root: Path) -> Iterator[Finding]:
    if not coco.images:
        yield Finding(True, coco.path, "the file", "has no images")
    files = Counter(_file_of(image, image_root) for image in coco.images)
    for image in coco.images:
        part = f"image {image.get('id')}"
        if not has_size(image):
            detail = f"{image.get('width')}×{image.get('height')}"
            yield Finding(True, coco.path, part, "has no width and height above 0", detail)
        file = _file_of(image, image_root)
        if file is None:
            yield Finding(True, coco.path, part, "has no file_name")
            continue
        if _leaves(image["file_name"]):
            kind = "has a file_name that leaves the image folder"
            yield Finding(False, coco.path, part, kind, image["file_name"])
        if not _is_file(file):
            yield Finding(True, file, f"({part} of {coco.path})", "is missing")
        if files[file] > 1:
            detail = image["file_name"]
            yield Finding(False, coco.path, part, "shares its file with another image", detail)


def _check_annotation_entries(coco: CocoFile) -> Iterator[Finding]:
    if not coco.annotations:
        yield Finding(False, coco.path, "the file", "has no annotations")
    for kind, count in coco.taken.items():
        yield Finding(False, coco.path, f"{count} of its annotations", kind)
    images = {id_of(image): image for image in coco.images if id_of(image) is not None}
    categories = {id_of(category) for category in coco.categories}
    for entry in coco.annotations:
        part = f"annotation {entry.get('id')}"
        image = images.get(id_of(entry, "image_id"))
        if id_of(entry, "image_id") is None:
            yield Finding(True, coco.path, part, "has no image_id", repr(entry.get("image_id")))
        elif image is None:
            kind = "is of an image that isn't in the file, and is left out"
            yield Finding(False, coco.path, part, kind, f"image {entry['image_id']!r}")
        if id_of(entry, "category_id") not in categories - {None}:
            kind = "is of a category that isn't in the file"
            yield Finding(True, coco.path, part, kind, f"category {entry.get('category_id')}")
        if entry.get("ignore", 0) != 0:
            yield Finding(True, coco.path, part, "is to be ignored, which detectron2 doesn't know")
        if not is_number(entry["iscrowd"]):
            kind = "has an iscrowd that is neither 0 nor 1"
            yield Finding(True, coco.path, part, kind, repr(entry["iscrowd"]))
        keypoints = entry.get("keypoints")
        if keypoints and not (isinstance(keypoints, list) and all(map(is_number, keypoints))):
            yield Finding(True, coco.path, part, "has keypoints that are no list of numbers")
        yield from _check_box(coco.path, part, entry, image or {})
        yield from _check_area(coco.path, part, entry)
        yield from _check_segmentation(coco.path, part, entry, image or {})
    yield from _check_unit(coco, images)


def _check_box(path: Path, part: str, entry: Entry, image: Entry) -> Iterator[Finding]:
    box = entry.get("bbox")
    detail = f"bbox {box} of image {entry.get('image_id')}, {image.get('file_name')}"
    if not is_box(entry, sized=False):
        yield Finding(True, path, part, "has no box of four numbers [x, y, width, height]", detail)
        return
    x, y, width, height = box
    if width < 0 or height < 0:
        yield Finding(True, path, part, "has a reversed box, its width or height below 0", detail)
    elif width == 0 or height == 0:
        yield Finding(False, path, part, "has an empty box, which training leaves out", detail)
    elif has_size(image):
        if width < 1 or height < 1:
            yield Finding(False, path, part, "has a box below a pixel", detail)
        detail += f" of {image['width']}×{image['height']}"
        beyond = (x + width - image["width"], y + height - image["height"])
        if x >= image["width"] or y >= image["height"] or x + width <= 0 or y + height <= 0:
            yield Finding(True, path, part, "has a box wholly outside its image", detail)
        elif max(-x, -y, *beyond) > TOLERANCE:
            kind = "has a box that sticks out of its image, and is clipped"
            yield Finding(False, path, part, kind, detail)


def _check_area(path: Path, part: str, entry: Entry) -> Iterator[Finding]:
    """COCO's evaluation sorts objects into small, medium and large ones by this number alone."""
    area = entry.get("area")
    remedy = "; --repair takes its box's"
    if area is None and not is_box(entry, sized=False):
        return  # that it has no box is said
    if not is_number(area) or area < 0:
        kind = "has an area that is not a number of at least 0"
        yield Finding(True, path, part, kind, f"{area!r}{remedy}")
    elif is_box(entry) and not has_plausible_area(entry):
        kind = "has an area that isn't its object's, so that APs, APm and APl will be wrong"
        detail = f"{area:g}, but its box has {box_area(entry):g}{remedy}"
        yield Finding(False, path, part, kind, detail)


def _check_segmentation(path: Path, part: str, entry: Entry, image: Entry) -> Iterator[Finding]:
    if not entry.get("segmentation"):
        return
    size = (image["height"], image["width"]) if has_size(image) else None
    usable, fault = usable_segmentation(entry["segmentation"], size)
    if fault and usable is None:
        kind = "has a segmentation that can't be used; without masks its box is"
        yield Finding(False, path, part, kind, f"it {fault}")
    elif fault:
        kind = "has a polygon that can't be used, and is left out"
        yield Finding(False, path, part, kind, f"its segmentation {fault}")
    if isinstance(usable, list) and is_box(entry) and _contradicts(entry["bbox"], usable):
        detail = f"bbox {entry['bbox']}, polygons {usable}"
        yield Finding(False, path, part, "has a box that isn't its polygons'", detail)


def _contradicts(box: list[float], polygons: list[list[float]]) -> bool:
    """Whether a box and its polygons' overlap by less than half of what both cover."""
    xs = [x for polygon in polygons for x in polygon[::2]]
    ys = [y for polygon in polygons for y in polygon[1::2]]
    left, top, right, bottom = box[0], box[1], box[0] + box[2], box[1] + box[3]
    sides = (left - min(xs), top - min(ys), right - max(xs), bottom - max(ys))
    if max(map(abs, sides)) <= 2 * TOLERANCE:
        return False
    width = max(0, min(right, max(xs)) - max(left, min(xs)))
    height = max(0, min(bottom, max(ys)) - max(top, min(ys)))
    covered = box[2] * box[3] + (max(xs) - min(xs)) * (max(ys) - min(ys)) - width * height
    return width * height < covered / 2


def _check_same_boxes(coco: CocoFile) -> Iterator[Finding]:
    objects = (entry for entry in coco.annotations if is_box(entry) and not entry["iscrowd"])
    keys = ("image_id", "category_id")
    same = Counter((*(id_of(one, key) for key in keys), *one["bbox"]) for one in objects)
    for (image, category, *box), count in same.items():
        if count > 1:
            detail = f"bbox {box} of category {category}, {count} times"
            kind = "has one box of one category more than once"
            yield Finding(False, coco.path, f"image {image}", kind, detail)


def _check_corners(coco: CocoFile) -> Iterator[Finding]:
    """Boxes of two corners, as other formats have them, stick out of images if read as COCO's."""
    images = {id_of(image): image for image in coco.images if has_size(image)}
    boxes = [
        (entry["bbox"], images[id_of(entry, "image_id")])
        for entry in coco.annotations
        if is_box(entry) and id_of(entry, "image_id") in images
    ]
    are_corners = all(
        x < right <= image["width"] + TOLERANCE and y < bottom <= image["height"] + TOLERANCE
        for (x, y, right, bottom), image in boxes
    )
    out = sum(
        x + width > image["width"] + TOLERANCE or y + height > image["height"] + TOLERANCE
        for (x, y, width, height), image in boxes
    )
    if are_corners and len(boxes) > 1 and out >= len(boxes) / 4:
        kind = "has boxes that look like two corners [x0, y0, x1, y1], not [x, y, width, height]"
        detail = f"{out} of {len(boxes)} stick out of their images"
        yield Finding(False, coco.path, "the file", kind, detail)


def _check_unit(coco: CocoFile, images: dict[int | str | None, Entry]) -> Iterator[Finding]:
    """Boxes in fractions of the image's size, as other formats have them."""
    boxes = [entry["bbox"] for entry in coco.annotations if is_box(entry)]
    are_fractions = all(
        0 <= x <= x + width <= 1 and 0 <= y <= y + height <= 1 for x, y, width, height in boxes
    )
    are_whole = all(float(value).is_integer() for box in boxes for value in box)
    if boxes and are_fractions and not are_whole:
        yield Finding(
            True,
            coco.path,
            "the file",
            "has boxes in fractions of the image's size, which must be in pixels",
            f"all {len(boxes)} lie between 0 and 1, the first one is {boxes[0]}",
        )


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name that no file system takes
        return False


def _leaves(name: str) -> bool:
    return Path(name).is_absolute() or ".." in Path(name).parts


def _file_of(image: Entry, image_root: Path) -> Path | None:
    name = image.get("file_name")
    return image_root / name if isinstance(name, str) and name else None
