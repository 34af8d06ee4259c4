"""What is in a COCO-format data set, and which settings follow from it."""

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np

from enl_detectron2.utils.text import one_line

from .coco_file import CocoFile, box_area, id_of, is_box, is_number

SMALL, MEDIUM = 32**2, 96**2  # pixels, COCO's limits of small and medium objects
PYRAMID_LEVELS = 5  # p2 to p6, with one anchor size each
ANCHOR_SIZES = (4, 6, 8, 12, 16, 24, 32)  # to choose from for p2, in pixels


def describe(coco: CocoFile) -> str:
    """What is in a data set, and which settings follow from it, as lines of text."""
    boxes = [entry for entry in coco.annotations if is_box(entry) and not entry.get("iscrowd")]
    sides = np.sqrt([entry["bbox"][2] * entry["bbox"][3] for entry in boxes])
    # COCO's evaluation has the objects' areas.
    areas = [e["area"] if is_number(e["area"]) else box_area(e) for e in boxes]
    areas = np.array(areas, dtype=float)
    per_image = Counter(id_of(entry, "image_id") for entry in boxes)
    counts = np.array([per_image[id_of(image)] for image in coco.images])
    per_category = Counter(id_of(entry, "category_id") for entry in boxes)
    crowds = sum(bool(entry.get("iscrowd")) for entry in coco.annotations)

    lines = [f"images              {len(coco.images):,}"]
    lines.append(
        f"boxes               {len(boxes):,}" + (f", and {crowds:,} crowds" if crowds else "")
    )
    for category in coco.categories:
        count = per_category[id_of(category)]
        named = one_line(f"{category.get('id')}: {category.get('name')}")
        lines.append(f"  category {named}, {count:,} boxes")
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
        "    for a training from ImageNet's weights; fine-tuning keeps the detector's own anchors",
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
