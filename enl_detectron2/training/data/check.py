"""What is wrong with a COCO-format data set, before a training finds out.

:func:`check_annotations` looks at the annotation file and at which images are there, which takes
seconds; :func:`check_images` decodes every image.
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from PIL import ExifTags, Image

from enl_detectron2.utils.errors import BadImage, ConfigError

from .coco_file import (
    CocoFile,
    Entry,
    Finding,
    Findings,
    box_area,
    box_of,
    has_plausible_area,
    has_size,
    id_of,
    is_box,
    is_file,
    is_number,
    read_coco,
)
from .images import read_image

# Of the categories that an image of LVIS isn't annotated with, or not in full.
LVIS_KEYS = ("neg_category_ids", "not_exhaustive_category_ids")
# Values of EXIF's orientation that change an image but not its size: mirrored, or turned by 180°.
SAME_SIZE = (2, 3, 4)
DARK = 63  # the largest value of an image of 14 bits in 16, if the upper 8 are read
TOLERANCE = 1.0  # pixels that a box may stick out of its image: annotation tools round


def check_annotations(coco: CocoFile) -> list[Finding]:
    """The findings that need no image to be decoded, with those of reading the file.

    Args:
        coco: the annotation file, read with its image folder.
    """
    found = Findings(coco.path)
    _check_file(coco, found)
    _check_ids(coco, found)
    _check_categories(coco, found)
    _check_image_entries(coco, found)
    found += coco.findings
    images = {id_of(image): image for image in coco.images if id_of(image) is not None}
    categories = {id_of(category) for category in coco.categories} - {None}
    for entry in coco.annotations:
        _check_annotation(entry, images, categories, found)
    _check_all_boxes(coco, images, found)
    return found


def read_sound(
    json_file: str | Path, image_root: str | Path | None = None
) -> tuple[CocoFile, list[str]]:
    """An annotation file that can be used, and its warnings, a line for each kind.

    Args:
        json_file: the annotation file.
        image_root: the folder of its images, if those are looked for.

    Raises:
        ConfigError: (a ValueError) with the first error, and how to see all.
    """
    try:
        coco = read_coco(json_file, image_root)
    except (OSError, ValueError) as error:
        raise ConfigError(str(error)) from None
    findings = check_annotations(coco)
    see_all = f"enl check {json_file} {image_root or 'IMAGES'}"
    errors = [finding for finding in findings if finding.is_error]
    if errors:
        first = str(errors[0]).removeprefix("error: ")
        raise ConfigError(
            f"{len(errors)} errors in the file, such as {first} (all of them: {see_all})"
        )
    kinds: dict[str, list[str]] = {}
    for finding in findings:
        kinds.setdefault(finding.kind, []).append(str(finding).removeprefix("warning: "))
    return coco, [
        first + (f" (and {len(others)} more: {see_all})" if others else "")
        for first, *others in kinds.values()
    ]


def check_images(coco: CocoFile, deep_images: str = "refuse") -> list[Finding]:
    """The images that can't be decoded, or have another size than the annotation file says.

    Missing ones are :func:`check_annotations`'s. Sizes are after the rotation that the image's
    EXIF data ask for, as detectron2 reads it.

    Args:
        coco: the annotation file, read with its image folder.
        deep_images: as of :func:`.images.read_image`.
    """
    return [finding for image in coco.images for finding in _check_image(coco, image, deep_images)]


def _check_image(coco: CocoFile, image: Entry, deep_images: str) -> Iterator[Finding]:
    file, part = file_of(coco, image), f"(image {image.get('id')})"
    if file is None or not is_file(file):
        return
    try:
        pixels = read_image(file, deep_images=deep_images)
    except BadImage as error:
        reason = str(error).removeprefix(f"{file} can't be read: ")
        yield Finding(True, file, part, "can't be read", reason)
        return
    height, width = pixels.shape[:2]
    said = (image.get("width"), image.get("height"))
    if said != (width, height):
        detail = f"{said[0]}×{said[1]} in {coco.path}, but it is {width}×{height}"
        yield Finding(True, file, part, "has another size than it should", detail)
    with Image.open(file) as opened:
        is_deep = "RGB;16" in str(opened.tile[:1])  # until it is loaded: how it is decoded
        if opened.getexif().get(ExifTags.Base.Orientation) in SAME_SIZE:
            kind = "is turned by 180° or mirrored by its EXIF data; its boxes may not be"
            yield Finding(False, file, part, kind)
        if is_deep and opened.mode == "RGB" and pixels.max() <= DARK:
            kind = "has 16 bits a channel, of which the upper 8 are read: it is almost black"
            yield Finding(False, file, part, kind, f"its largest value is {pixels.max()} of 255")


def _check_file(coco: CocoFile, found: Findings) -> None:
    for name in ("images", "categories"):
        if not getattr(coco, name):
            found.error("the file", f"has no {name}")
    if not coco.annotations:
        found.warn("the file", "has no annotations")
    if coco.twice:
        kind = "has objects with a key more than once, of which the last one counts"
        detail = ", ".join(f"{key!r} in {count}" for key, count in coco.twice.items())
        found.warn("the file", kind, detail)
    partly = sum(any(key in image for key in LVIS_KEYS) for image in coco.images)
    if partly:
        found.warn(
            f"{partly} of its images",
            "say as in LVIS what was annotated, which COCO's evaluation doesn't read: it counts "
            "what is found beside as wrong. Use detectron2's register_lvis_instances",
        )
    for kind, ids in coco.taken.items():
        found.warn(f"{len(ids)} of its entries", kind, f"the first has the id {ids[0]!r}")


def _check_ids(coco: CocoFile, found: Findings) -> None:
    kinds = {"image": coco.images, "annotation": coco.annotations, "category": coco.categories}
    for kind, entries in kinds.items():
        ids = [id_of(entry) for entry in entries]
        for place, id_ in enumerate(ids):
            # COCO's evaluation keeps those of annotations in arrays of numbers.
            if id_ is None or (kind == "annotation" and isinstance(id_, str)):
                detail = repr(entries[place].get("id"))
                found.error(f"{kind} at place {place}", "has no number as its id", detail)
        for id_, count in Counter(ids).items():
            if id_ is not None and count > 1:
                found.error(f"{kind} {id_}", "is there more than once", f"{count} times")
        texts = [id_ for id_ in ids if isinstance(id_, str)]
        numbers = [id_ for id_ in ids if isinstance(id_, int)]
        if texts and numbers and kind != "annotation":
            kinds_differ = "has a number as its id where others have a text"
            found.error(f"{kind} {numbers[0]}", kinds_differ, repr(texts[0]))
    if any(id_of(entry) == 0 for entry in coco.annotations):
        found.warn("annotation 0", "never counts as found in COCO's evaluation")


def _check_categories(coco: CocoFile, found: Findings) -> None:
    used = {id_of(entry, "category_id") for entry in coco.annotations}
    unused = [str(one.get("name")) for one in coco.categories if id_of(one) not in used]
    if unused and coco.annotations:
        part = f"{len(unused)} of its {len(coco.categories)} categories"
        found.warn(part, "have no annotations", ", ".join(unused))
    names = Counter(str(category.get("name")) for category in coco.categories)
    for category in coco.categories:
        part = f"category {category.get('id')}"
        if not isinstance(category.get("name"), str) or not category["name"]:
            found.error(part, "has no name")
        elif names[category["name"]] > 1:
            found.warn(part, "shares its name", category["name"])


def _check_image_entries(coco: CocoFile, found: Findings) -> None:
    files = Counter(file_of(coco, image) for image in coco.images)
    for image in coco.images:
        part, name, file = f"image {image.get('id')}", image.get("file_name"), file_of(coco, image)
        if not has_size(image):
            detail = f"{image.get('width')}×{image.get('height')}"
            found.error(part, "has no width and height above 0", detail)
        if file is None:
            found.error(part, "has no file_name")
            continue
        if Path(name).is_absolute() or ".." in Path(name).parts:
            found.warn(part, "has a file_name that leaves the image folder", name)
        if coco.image_root is not None and not is_file(file):
            nearest = coco.nearest.get(name)
            there = f"; the nearest there is {nearest}" if nearest else ""
            found.error(part, "has a file that is missing", f"{name} in {coco.image_root}{there}")
        elif files[file] > 1:
            found.warn(part, "shares its file with another image", name)


def _check_annotation(entry: Entry, images: dict, categories: set, found: Findings) -> None:
    part = f"annotation {entry.get('id')}"
    image = images.get(id_of(entry, "image_id"), {})
    if id_of(entry, "image_id") is None:
        found.error(part, "has no image_id", repr(entry.get("image_id")))
    elif not image:
        kind = "is of an image that isn't in the file, and is left out"
        found.warn(part, kind, f"image {entry['image_id']!r}")
    if id_of(entry, "category_id") not in categories:
        kind = "is of a category that isn't in the file"
        found.error(part, kind, f"category {entry.get('category_id')}")
    if entry["iscrowd"] not in (0, 1):
        found.error(part, "has an iscrowd that is neither 0 nor 1", repr(entry["iscrowd"]))

    box = entry.get("bbox")
    detail = f"bbox {box} of image {entry.get('image_id')}, {image.get('file_name')}"
    if not is_box(entry, sized=False):
        found.error(part, "has no box of four numbers [x, y, width, height], and no mask", detail)
        return
    x, y, width, height = box
    if width < 0 or height < 0:
        found.error(part, "has a reversed box, its width or height below 0", detail)
    elif width == 0 or height == 0:
        found.warn(part, "has an empty box, which training leaves out", detail)
    elif has_size(image):
        if width < 1 or height < 1:
            found.warn(part, "has a box below a pixel", detail)
        detail += f" of {image['width']}×{image['height']}"
        beyond = (x + width - image["width"], y + height - image["height"])
        if x >= image["width"] or y >= image["height"] or x + width <= 0 or y + height <= 0:
            found.error(part, "has a box wholly outside its image", detail)
        elif max(-x, -y, *beyond) > TOLERANCE:
            found.warn(part, "has a box that sticks out of its image, and is clipped", detail)

    # COCO's evaluation sorts objects into small, medium and large ones by this number alone.
    area, remedy = entry["area"], "; --repair takes its box's"
    if not is_number(area) or area < 0:
        found.error(part, "has an area that is not a number of at least 0", f"{area!r}{remedy}")
    elif is_box(entry) and not has_plausible_area(entry):
        kind = "has an area that isn't its object's, so that APs, APm and APl will be wrong"
        found.warn(part, kind, f"{area:g}, but its box has {box_area(entry):g}{remedy}")

    mask = entry.get("segmentation")
    if mask and is_box(entry) and _contradicts(box, around := box_of(mask)):
        found.warn(
            part, "has a box that isn't its mask's", f"bbox {box}, but {around} around its mask"
        )


def _contradicts(box: list[float], other: list[float]) -> bool:
    """Whether two boxes overlap by less than half of what both cover."""
    (x0, y0, w0, h0), (x1, y1, w1, h1) = box, other
    sides = (x0 - x1, y0 - y1, x0 + w0 - x1 - w1, y0 + h0 - y1 - h1)
    if max(map(abs, sides)) <= 2 * TOLERANCE:
        return False
    width = max(0, min(x0 + w0, x1 + w1) - max(x0, x1))
    height = max(0, min(y0 + h0, y1 + h1) - max(y0, y1))
    return width * height < (w0 * h0 + w1 * h1 - width * height) / 2


def _check_all_boxes(coco: CocoFile, images: dict, found: Findings) -> None:
    """Boxes that are given twice, and those of other formats: two corners, or fractions."""
    entries = [entry for entry in coco.annotations if is_box(entry)]
    keys = ("image_id", "category_id")
    objects = (entry for entry in entries if not entry["iscrowd"])
    same = Counter((*(id_of(one, key) for key in keys), *one["bbox"]) for one in objects)
    for (image, category, *box), count in same.items():
        if count > 1:
            detail = f"bbox {box} of category {category}, {count} times"
            found.warn(f"image {image}", "has one box of one category more than once", detail)

    boxes = [entry["bbox"] for entry in entries]
    are_fractions = all(
        0 <= x <= x + width <= 1 and 0 <= y <= y + height <= 1 for x, y, width, height in boxes
    )
    if boxes and are_fractions and not all(float(v).is_integer() for box in boxes for v in box):
        kind = "has boxes in fractions of the image's size, which must be in pixels"
        detail = f"all {len(boxes)} lie between 0 and 1, the first one is {boxes[0]}"
        found.error("the file", kind, detail)

    placed = [(entry["bbox"], images.get(id_of(entry, "image_id"), {})) for entry in entries]
    placed = [
        (box, image["width"] + TOLERANCE, image["height"] + TOLERANCE)
        for box, image in placed
        if has_size(image)
    ]
    are_corners = all(
        x < right <= width and y < bottom <= height
        for (x, y, right, bottom), width, height in placed
    )
    out = sum(x + w > width or y + h > height for (x, y, w, h), width, height in placed)
    if are_corners and len(placed) > 1 and out >= len(placed) / 4:
        kind = "has boxes that look like two corners [x0, y0, x1, y1], not [x, y, width, height]"
        found.warn("the file", kind, f"{out} of {len(placed)} stick out of their images")


def file_of(coco: CocoFile, image: Entry) -> Path | None:
    """The file of an image; None if it has no name."""
    name = image.get("file_name")
    return (coco.image_root or Path()) / name if isinstance(name, str) and name else None
