"""Which masks of an annotation file can be used, and what is wrong with the others."""

from typing import Any

# pycocotools multiplies coordinates and takes the result for a 32-bit number without a look.
FARTHEST = 1_000_000  # pixels
LEAST_POINTS = 3


def usable_segmentation(
    segmentation: Any, image_size: tuple[Any, Any] | None
) -> tuple[list | dict | None, str]:
    """What of an annotation's ``segmentation`` detectron2 can use, and what is wrong with the rest.

    Args:
        segmentation: whatever the file has there.
        image_size: (height, width) of its image, which a run-length mask must have; None if it
            isn't known.

    Returns:
        The usable polygons, or the run-length mask, or None if nothing is usable; and the first
        fault, as it follows "its segmentation", or "".
    """
    if not segmentation:
        return None, "is empty"
    if isinstance(segmentation, dict):
        fault = _fault_of_run_lengths(segmentation, image_size)
        return (None if fault else segmentation), fault
    if not isinstance(segmentation, list):
        return None, f"is a {type(segmentation).__name__}, not a list of polygons"
    if all(_is_number(value) for value in segmentation):
        return None, "is a list of numbers, not a list of polygons [[x1, y1, x2, y2, …], …]"
    faults = [_fault_of_polygon(polygon) for polygon in segmentation]
    usable = [polygon for polygon, fault in zip(segmentation, faults) if not fault]
    return usable or None, next((fault for fault in faults if fault), "")


def is_run_lengths(segmentation: Any) -> bool:
    """Whether it is a mask in run lengths, for which detectron2 needs the mask format "bitmask"."""
    return isinstance(segmentation, dict)


def _fault_of_polygon(polygon: Any) -> str:
    if not isinstance(polygon, list):
        return f"holds a {type(polygon).__name__} where a polygon should be"
    # By types, which is fast: there can be millions of numbers.
    if not {*map(type, polygon)} <= {int, float}:
        if any(isinstance(point, (list, dict)) for point in polygon):
            return "has points within polygons, where a polygon is [x1, y1, x2, y2, …]"
        return "has polygons of other things than numbers"
    if len(polygon) % 2:
        return "has a polygon with an odd number of coordinates"
    if len(polygon) < 2 * LEAST_POINTS:
        return f"has a polygon of fewer than {LEAST_POINTS} points"
    # Written so that it holds for NaN, too, which min() and max() may pass over.
    if not all(-FARTHEST <= value <= FARTHEST for value in polygon):
        return f"has coordinates that are no numbers or beyond {FARTHEST:,} pixels"
    return ""


def _fault_of_run_lengths(mask: dict[str, Any], image_size: tuple[Any, Any] | None) -> str:
    size, counts = mask.get("size"), mask.get("counts")
    if not isinstance(size, list) or len(size) != 2 or not all(type(n) is int for n in size):
        return "has no size [height, width]"
    if image_size is not None and tuple(size) != tuple(image_size):
        return f"is of an image of {size[1]}×{size[0]} pixels"
    if isinstance(counts, str):
        counts = _uncompressed(counts)
    if not isinstance(counts, list) or not all(type(n) is int and n >= 0 for n in counts):
        return "has no run lengths"
    if sum(counts) != size[0] * size[1]:
        return f"has run lengths of {sum(counts)} pixels in all, not of {size[0] * size[1]}"
    return ""


def _uncompressed(text: str) -> list[int] | None:
    """The run lengths that COCO's format writes as text: 5 bits a character, differences."""
    counts, value, shift = [], 0, 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64:
            return None
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        counts.append(value + (counts[-2] if len(counts) > 2 else 0))
        value = shift = 0
    return None if shift else counts


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float))
