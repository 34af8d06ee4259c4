"""COCO-format annotation files as people write them, and as detectron2 can read them.

What has only one meaning is taken as that: whole numbers written as 640.0 or "640", a missing
``iscrowd``, a missing ``area``, a byte order mark. detectron2 and pycocotools read the file
themselves, so that where theirs would be another reading they are given a copy.
"""

import atexit
import codecs
import errno
import json
import locale
import tempfile
from collections import Counter
from collections.abc import Callable, Hashable, Iterable
from numbers import Real
from pathlib import Path
from typing import Any, NamedTuple

from enl_detectron2.utils.files import whole_file

from .segmentation import usable_segmentation

Entry = dict[str, Any]
LARGEST = 1e300
NO_AREA = "have no area, for which that of their box is taken"
# Where copies are kept until the process ends.
_copies = None


class CocoFile(NamedTuple):
    """A COCO-format annotation file; every entry is a dict."""

    path: Path
    images: list[Entry]
    annotations: list[Entry]
    categories: list[Entry]
    # All of the file; the three lists are parts of it.
    content: dict[str, Any]
    # What was taken for what, and how often; of the kinds that a user should know of.
    taken: Counter
    # Whether detectron2 would read something else, and so needs a copy.
    differs: bool
    # Keys that an object of the file has more than once, and in how many objects.
    twice: Counter


def read_coco(json_file: str | Path) -> CocoFile:
    """Reads a COCO-format annotation file, and puts right what has only one meaning.

    Raises:
        ValueError: if it is no JSON or has another format; one sentence.
        FileNotFoundError: if it isn't there.
    """
    path = Path(json_file)
    if not path.is_file():
        raise FileNotFoundError(f"there is no annotation file {path}")
    data = path.read_bytes()
    twice = Counter()
    try:
        content = json.loads(data, object_pairs_hook=_objects(twice))
    except RecursionError:
        raise ValueError(f"{path} is not in COCO format: its lists are nested too deeply") from None
    except ValueError as error:
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
    taken = Counter()
    differs = _put_right(*lists, taken) | (not _reads_as_text(data))
    return CocoFile(path, *lists, content, taken, differs, twice)


def file_for_detectron2(coco: CocoFile, target: str | Path | None = None) -> Path:
    """The annotation file, or a copy of it where detectron2 would read something else.

    A segmentation that can't be used is left out there: detectron2 would leave out the object with
    its box, or fail.

    Args:
        coco: an annotation file.
        target: where a copy is written, over an older one; None is a temporary folder, which is
            removed when the process ends.
    """
    sizes = {id_of(image): (image.get("height"), image.get("width")) for image in coco.images}
    differs = coco.differs
    annotations = []
    for entry in coco.annotations:
        if entry.get("segmentation"):
            size = sizes.get(id_of(entry, "image_id"))
            usable, fault = usable_segmentation(entry["segmentation"], size)
            if fault:
                entry, differs = entry | {"segmentation": usable or []}, True
        annotations.append(entry)
    if not differs:
        return coco.path
    content = coco.content
    if "annotations" in content:
        content = content | {"annotations": annotations}
    data = json.dumps(content).encode("ascii")
    if target is not None:
        Path(target).parent.mkdir(parents=True, exist_ok=True)
        with whole_file(target) as file:  # by a name of this process's until it is whole
            file.write(data)
        return Path(target)
    global _copies
    if _copies is None:
        _copies = tempfile.TemporaryDirectory(prefix="coco_format_")
        atexit.register(_copies.cleanup)
    folder = tempfile.mkdtemp(dir=_copies.name)
    copy = Path(folder, coco.path.name)
    copy.write_bytes(data)
    return copy


def repair(coco: CocoFile, target: str | Path) -> int:
    """Writes a new annotation file with the boxes' areas in place of impossible ones.

    What :func:`read_coco` has put right is in it, too; all else is as it was.

    Args:
        coco: an annotation file.
        target: the new file.

    Returns:
        How many annotations have another area there, or one for the first time.

    Raises:
        FileExistsError: if the target is there.
        OSError: if it can't be written; nothing of it is left.
    """
    target = Path(target)
    if target.exists():
        raise FileExistsError(errno.EEXIST, "it already exists", str(target))
    count = coco.taken[NO_AREA]
    for entry in coco.annotations:
        if is_box(entry) and not has_plausible_area(entry):
            entry["area"], count = box_area(entry), count + 1
    with whole_file(target, f"{target.name}.unfinished") as file:
        file.write(json.dumps(coco.content).encode("ascii"))
    return count


def has_plausible_area(entry: Entry) -> bool:
    """Whether a box's area is above 0 and not larger than the box, with a pixel to round."""
    area, (_, _, width, height) = entry.get("area"), entry["bbox"]
    return is_number(area) and 0 < area <= (width + 1) * (height + 1)


def id_of(entry: Entry, key: str = "id") -> int | str | None:
    """The number or text that an entry has as its id; None if it has neither."""
    value = entry.get(key)
    return value if isinstance(value, int) or (isinstance(value, str) and value) else None


def is_number(value: Any) -> bool:
    """Whether it is a finite number that can be calculated with; JSON knows no limits."""
    return isinstance(value, Real) and -LARGEST < value < LARGEST


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


def _objects(twice: Counter) -> Callable[[list[tuple[str, Any]]], dict[str, Any]]:
    """Makes JSON's objects, as by default; counts the keys that one has more than once."""

    def make(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        if len(made) < len(pairs):
            counts = Counter(key for key, _ in pairs)
            twice.update(key for key, count in counts.items() if count > 1)
        return made

    return make


def _put_right(
    images: list[Entry], annotations: list[Entry], categories: list[Entry], taken: Counter
) -> bool:
    """Changes the entries in place; returns whether detectron2 would read the former ones else."""
    differs = False
    for entries in (images, categories):
        # Texts do as ids, but not beside numbers, with which they can't be sorted.
        texts = {isinstance(entry.get("id"), str) for entry in entries} == {True}
        for entry in entries:
            differs |= _make_whole(entry, "id", texts=not texts)
    for image in images:
        differs |= _make_whole(image, "width") | _make_whole(image, "height")
    image_ids, category_ids = _spellings(images), _spellings(categories)
    for entry in annotations:
        differs |= _make_whole(entry, "id")
        for key, ids in (("image_id", image_ids), ("category_id", category_ids)):
            value = entry.get(key)
            meant = ids.get(value if isinstance(value, Hashable) else None, value)
            if type(meant) is not type(value):
                differs, entry[key] = True, meant
        if "iscrowd" not in entry:
            differs, entry["iscrowd"] = True, 0
        if "area" not in entry and is_box(entry, sized=False):
            differs, entry["area"] = True, box_area(entry)
            taken[NO_AREA] += 1
    return differs


def _make_whole(entry: Entry, key: str, texts: bool = True) -> bool:
    """Makes an integer of a whole number that is written otherwise; returns whether it was."""
    value = entry.get(key)
    is_text = texts and isinstance(value, str) and value.isascii() and value.isdecimal()
    if is_text or (isinstance(value, float) and value.is_integer()):
        entry[key] = int(value)
        return True
    return False


def _spellings(entries: Iterable[Entry]) -> dict[Any, Any]:
    """Ids by what an annotation may call them: 7, 7.0 or "7"."""
    ids = [entry["id"] for entry in entries if id_of(entry) is not None]
    spellings = {str(id_): id_ for id_ in ids}
    spellings |= {int(id_): id_ for id_ in ids if isinstance(id_, str) and id_.isdecimal()}
    return spellings | {id_: id_ for id_ in ids}


def _reads_as_text(data: bytes) -> bool:
    """Whether pycocotools, which opens the file as text, reads what JSON's own rules say."""
    if data.isascii():
        return True
    if codecs.lookup(locale.getpreferredencoding(False)).name != "utf-8":
        return False
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return not data.startswith(codecs.BOM_UTF8)
