"""COCO-format annotation files as people write them.

:func:`read_coco` takes what has only one meaning as that: whole numbers written as 640.0 or "640",
a missing ``iscrowd`` or ``area``, ``ignore``, an object without a box that has a mask, a photograph
whose name is spelled otherwise in its folder. What detectron2 trains on is made of that, see
:mod:`.coco_format`.
"""

import errno
import json
import math
import os
import unicodedata
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from numbers import Real
from pathlib import Path, PurePath
from typing import Any, NamedTuple

import pycocotools.mask

from enl_detectron2.utils.files import whole_file
from enl_detectron2.utils.text import one_line

Entry = dict[str, Any]
LONGEST = 300  # characters of values that a finding shows
NO_AREA = "have no area, for which that of their box is taken"
IGNORED = 'are to be "ignored": taken as crowds, not trained on, and no detection there is wrong'
NO_BOX = "have no box, for which that of their mask is taken"
NO_MASK = "has a segmentation that can't be used; without masks its box is"
BROKEN_POLYGON = "has a polygon that can't be used, and is left out"
NO_KEYPOINTS = "have keypoints that are no numbers, which are left out"
SPELLED = "have a file_name that is spelled otherwise in the folder, by its Unicode form, its "
SPELLED += "suffix's case or \\"


class Finding(NamedTuple):
    """Something that is wrong with a data set."""

    # Whether the set can't be trained or evaluated on as it is, or would silently be taken for
    # something else. What has one meaning, or detectron2 copes with, is a warning.
    is_error: bool
    file: Path  # in which it is
    part: str  # of the file, such as "annotation 17"
    kind: str  # the same words for all of a kind
    detail: str = ""  # the values

    def __str__(self) -> str:
        level = "error" if self.is_error else "warning"
        detail = f": {one_line(self.detail, LONGEST)}" if self.detail else ""
        return one_line(f"{level}: {self.file}: {self.part} {self.kind}{detail}")


class Findings(list[Finding]):
    """Those of one file, in the order in which they were found."""

    def __init__(self, file: Path):
        super().__init__()
        self.file = file

    def error(self, part: str, kind: str, detail: str = "") -> None:
        self.append(Finding(True, self.file, part, kind, detail))

    def warn(self, part: str, kind: str, detail: str = "") -> None:
        self.append(Finding(False, self.file, part, kind, detail))


@dataclass
class CocoFile:
    """A COCO-format annotation file; every entry is a dict."""

    path: Path
    images: list[Entry]
    annotations: list[Entry]
    categories: list[Entry]
    # All of the file; the three lists are parts of it.
    content: dict[str, Any]
    # The folder that its file names are relative to; None if nobody asks for it.
    image_root: Path | None = None
    # What was taken for what, by kind: the ids of the entries.
    taken: dict[str, list] = field(default_factory=dict)
    # Whether pycocotools, which evaluates, would read something else.
    differs: bool = False
    # Keys that an object of the file has more than once, and in how many objects.
    twice: Counter = field(default_factory=Counter)
    # Of file names that aren't in the folder: another file there with the same name or stem.
    nearest: dict[str, str] = field(default_factory=dict)
    # Of segmentations, which were left out.
    findings: Findings = field(init=False)

    def __post_init__(self) -> None:
        self.findings = Findings(self.path)

    def put(self, entry: Entry, key: str, value: Any, kind: str = "") -> None:
        """Changes an entry of the file; ``kind`` says why, if a user should know of it."""
        entry[key], self.differs = value, True
        if kind:
            self.taken.setdefault(kind, []).append(entry.get("id"))


def read_coco(json_file: str | Path, image_root: str | Path | None = None) -> CocoFile:
    """Reads a COCO-format annotation file, and puts right what has only one meaning.

    Args:
        json_file: the annotation file.
        image_root: the folder of its images, if those are looked for.

    Raises:
        ValueError: if it is no JSON or has another format; one sentence.
        FileNotFoundError: if it isn't there.
    """
    path = Path(json_file)
    if not path.is_file():
        raise FileNotFoundError(f"there is no annotation file {path}")
    data, twice = path.read_bytes(), Counter()
    try:
        content = json.loads(data, object_pairs_hook=_objects(twice))
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{path} is not a complete JSON file, perhaps it was cut off: {error}"
        ) from None
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
                + ("but it isn't" if name in content else "but it is missing")
            )
        lists.append(entries)
    root = None if image_root is None else Path(image_root)
    coco = CocoFile(path, *lists, content, root, twice=twice)
    coco.differs = json.detect_encoding(data) != "utf-8"  # as a byte order mark makes it
    _put_ids_right(coco)
    sizes = {id_of(image): (image.get("height"), image.get("width")) for image in coco.images}
    for entry in coco.annotations:
        _put_annotation_right(coco, entry, sizes.get(id_of(entry, "image_id")))
    if root is not None:
        _find_files(coco, root)
    return coco


def write_coco(coco: CocoFile, target: str | Path) -> None:
    """Writes the file as it was understood, whole or not at all, over an older one.

    Raises:
        FileNotWritten: (an OSError) if it can't be written.
    """
    with whole_file(target) as file:
        file.write(json.dumps(coco.content).encode("ascii"))


def repair(coco: CocoFile, target: str | Path) -> int:
    """Writes a new annotation file with the boxes' areas in place of impossible ones.

    What :func:`read_coco` has put right is in it, too; all else is as it was.

    Returns:
        How many annotations have another area there, or one for the first time.

    Raises:
        FileExistsError: if the target is there.
        FileNotWritten: (an OSError) if it can't be written.
    """
    if Path(target).exists():
        raise FileExistsError(errno.EEXIST, "it already exists", str(target))
    count = len(coco.taken.get(NO_AREA, ()))
    for entry in coco.annotations:
        if is_box(entry) and not has_plausible_area(entry):
            entry["area"], count = box_area(entry), count + 1
    write_coco(coco, target)
    return count


def usable_segmentation(
    segmentation: Any, image_size: tuple[Any, Any] | None
) -> tuple[list | dict | None, str]:
    """What of an annotation's ``segmentation`` is a mask, and what is wrong with the rest.

    Args:
        segmentation: whatever the file has there.
        image_size: (height, width) of its image, which a run-length mask must have; None if it
            isn't known.

    Returns:
        The usable polygons, or the run-length mask, or None if nothing is usable; and the fault, as
        it follows "its segmentation", or "".
    """
    if not segmentation:
        return None, "is empty"
    if isinstance(segmentation, dict):
        size, counts = segmentation.get("size"), segmentation.get("counts")
        if not isinstance(size, list) or len(size) != 2 or not isinstance(counts, (str, list)):
            return None, "has no size [height, width] or no counts"
        if image_size is not None and tuple(size) != tuple(image_size):
            return None, f"is of an image of {size[1]}×{size[0]} pixels"
        if isinstance(counts, list) and sum(counts) != size[0] * size[1]:
            return None, f"has run lengths of {sum(counts)} pixels, not of {size[0] * size[1]}"
        return segmentation, ""
    if not isinstance(segmentation, list):
        return None, f"is a {type(segmentation).__name__}, not a list of polygons"
    if _is_polygon(segmentation):  # as some tools write the only one
        segmentation = [segmentation]
    usable = [polygon for polygon in segmentation if _is_polygon(polygon)]
    wrong = len(usable) < len(segmentation)
    return usable or None, "has a polygon that isn't [x1, y1, x2, y2, x3, y3, …]" if wrong else ""


def has_plausible_area(entry: Entry) -> bool:
    """Whether a box's area is above 0 and not larger than the box, with a pixel to round."""
    area, (_, _, width, height) = entry.get("area"), entry["bbox"]
    return is_number(area) and 0 < area <= (width + 1) * (height + 1)


def id_of(entry: Entry, key: str = "id") -> int | str | None:
    """The number or text that an entry has as its id; None if it has neither."""
    value = entry.get(key)
    is_id = isinstance(value, int) and not isinstance(value, bool)
    return value if is_id or (isinstance(value, str) and value) else None


def is_number(value: Any) -> bool:
    """Whether it is a finite number."""
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def is_box(entry: Entry, sized: bool = True) -> bool:
    """Whether the entry has a box of four finite numbers, and ``sized``, one with a size."""
    box = entry.get("bbox")
    if not isinstance(box, list) or len(box) != 4 or not all(map(is_number, box)):
        return False
    return not sized or (box[2] > 0 and box[3] > 0)


def has_size(image: Entry) -> bool:
    """Whether the image has a width and a height above 0."""
    return all(isinstance(image.get(k), int) and image[k] > 0 for k in ("width", "height"))


def box_area(entry: Entry) -> float:
    """Of an entry with a box, in square pixels."""
    return entry["bbox"][2] * entry["bbox"][3]


def is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name that no file system takes
        return False


def _objects(twice: Counter) -> Callable[[list[tuple[str, Any]]], dict[str, Any]]:
    """Makes JSON's objects, as by default; counts the keys that one has more than once."""

    def make(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        if len(made) < len(pairs):
            counts = Counter(key for key, _ in pairs)
            twice.update(key for key, count in counts.items() if count > 1)
        return made

    return make


def _put_ids_right(coco: CocoFile) -> None:
    meant = {}
    for key, entries in (("image_id", coco.images), ("category_id", coco.categories)):
        # Texts do as ids, but not beside numbers, with which they can't be sorted.
        are_texts = {isinstance(entry.get("id"), str) for entry in entries} == {True}
        for entry in entries:
            if not are_texts:
                _put_whole(coco, entry, "id")
            entry.update({k: _whole(entry[k]) for k in ("width", "height") if k in entry})
        # What annotations may call them: 7, 7.0 (which Python has for the same) or "7".
        ids = [entry["id"] for entry in entries if id_of(entry) is not None]
        meant[key] = {str(id_): id_ for id_ in ids} | {_whole(id_): id_ for id_ in ids}
        meant[key] |= {id_: id_ for id_ in ids}
    for category in coco.categories:
        if is_number(category.get("name")):  # as those of digits
            category["name"] = str(category["name"])
    for entry in coco.annotations:
        _put_whole(coco, entry, "id")
        for key, ids in meant.items():
            value = entry.get(key)
            known = isinstance(value, (int, float, str)) and not isinstance(value, bool)
            if known and type(ids.get(value, value)) is not type(value):
                coco.put(entry, key, ids[value])


def _put_annotation_right(coco: CocoFile, entry: Entry, image_size: tuple | None) -> None:
    if entry.get("segmentation"):
        usable, fault = usable_segmentation(entry["segmentation"], image_size)
        if usable != entry["segmentation"]:  # detectron2 would leave out the object with its box
            coco.put(entry, "segmentation", usable or [])
        if fault:
            kind = BROKEN_POLYGON if usable else NO_MASK
            part, detail = f"annotation {entry.get('id')}", f"its segmentation {fault}"
            coco.findings.warn(part, kind, detail)
    if not entry.get("bbox") and entry.get("segmentation"):
        coco.put(entry, "bbox", box_of(entry["segmentation"]), NO_BOX)
    if entry.get("iscrowd") is None:
        coco.put(entry, "iscrowd", 0)
    _put_whole(coco, entry, "iscrowd")
    if _whole(entry.get("ignore")) and not entry["iscrowd"]:
        coco.put(entry, "iscrowd", 1, IGNORED)
        del entry["ignore"]
    if entry.get("area") is None and is_box(entry, sized=False):
        coco.put(entry, "area", box_area(entry), NO_AREA)
    keypoints = entry.get("keypoints")
    if keypoints and not (isinstance(keypoints, list) and all(map(is_number, keypoints))):
        coco.put(entry, "keypoints", [], NO_KEYPOINTS)


def _put_whole(coco: CocoFile, entry: Entry, key: str) -> None:
    value = _whole(entry.get(key))
    if type(value) is not type(entry.get(key)):
        coco.put(entry, key, value)


def _whole(value: Any) -> Any:
    """The integer, where a whole number is written as 640.0 or "640"; otherwise the value."""
    is_text = isinstance(value, str) and value.isascii() and value.isdecimal()
    return int(value) if is_text or (isinstance(value, float) and value.is_integer()) else value


def _is_polygon(value: Any) -> bool:
    # By types and a sum, which is fast: there can be millions of numbers.
    is_flat = isinstance(value, list) and {*map(type, value)} <= {int, float}
    return is_flat and len(value) >= 6 and len(value) % 2 == 0 and math.isfinite(sum(value))


def box_of(segmentation: list | dict) -> list[float]:
    """[x, y, width, height] around polygons, or around what a run-length mask covers."""
    if isinstance(segmentation, list):
        xs = [x for polygon in segmentation for x in polygon[::2]]
        ys = [y for polygon in segmentation for y in polygon[1::2]]
        return [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]
    if isinstance(segmentation["counts"], list):
        segmentation = pycocotools.mask.frPyObjects(segmentation, *segmentation["size"])
    return pycocotools.mask.toBbox(segmentation).tolist()


def _find_files(coco: CocoFile, root: Path) -> None:
    """Gives images the names of their files where those are spelled otherwise; notes others."""
    names = [(image, image.get("file_name")) for image in coco.images]
    names = [(image, name) for image, name in names if isinstance(name, str) and name]
    missing = [(image, name) for image, name in names if not is_file(root / name)]
    if not missing:
        return
    spelled, stems = {}, {}
    for folder, _, files in os.walk(root):
        for file in files:
            found = os.path.relpath(os.path.join(folder, file), root)
            if not is_file(root / found):  # a pipe, say
                continue
            spelled.setdefault(_plain(found), []).append(found)
            stems.setdefault(PurePath(_plain(file)).stem.lower(), found)
    for image, name in missing:
        found = spelled.get(_plain(name), ())
        if len(found) == 1:
            image["file_name"] = found[0]
            coco.taken.setdefault(SPELLED, []).append(image.get("id"))
        elif nearest := stems.get(PurePath(_plain(name)).stem.lower()):
            coco.nearest[name] = nearest


def _plain(name: str) -> str:
    stem, suffix = os.path.splitext(unicodedata.normalize("NFC", name.replace("\\", "/")))
    return stem + suffix.lower()
