"""Which part of a padded map belongs to its image: images → extent → cells.

A batch has one size, so smaller images are padded at their right and lower edges. An *extent* is
an integer tensor (B, 2) with the height and width, at least 1, that each image itself has on a
map; what lies beyond is padding. Values beyond the map count as the whole map.

:func:`image_extent` reads it off a batch of images, :func:`map_extent` turns pixels into cells of
a map, and :func:`inside` is the mask. Nothing here asks a tensor for a value, so a GPU never waits,
and the same code is traced, scripted, compiled and exported.
"""

import torch
from torch import Tensor


def image_extent(images: Tensor) -> Tensor:
    """The size of each image of a batch without its padding.

    detectron2 normalises images and then pads them with exact zeros, so an image ends at its last
    row and column that hold anything else. One whose own last rows are the mean colour to the last
    bit ends before them; its features still depend on nothing but the image.

    Args:
        images: (B, C, H, W), normalised, then padded with zeros at the right and lower edges.

    Returns:
        (B, 2), heights and widths in pixels; the whole (H, W) for an image of nothing but zeros.
    """
    content = (images != 0).any(dim=1)  # (B, H, W)
    return torch.stack([_end(content.any(dim=2)), _end(content.any(dim=1))], dim=1)


def _end(content: Tensor) -> Tensor:
    """(B,): 1 + the last index along the second dimension that is True; the length if none is."""
    number = torch.arange(1, content.shape[1] + 1, device=content.device)
    end = (content * number).amax(dim=1)
    return torch.where(end > 0, end, number[-1])


def map_extent(extent: Tensor, stride: int) -> Tensor:
    """An extent in pixels as one in cells of a map; a cell that is partly padding counts.

    Args:
        extent: (B, 2), in pixels.
        stride: pixels to a cell.

    Returns:
        (B, 2), in cells.
    """
    return torch.div(extent + (stride - 1), stride, rounding_mode="floor")


def inside(extent: Tensor, map_: Tensor) -> Tensor:
    """Where a map is its image's own.

    Args:
        extent: (B, 2), in cells of the map.
        map_: (B, C, H, W).

    Returns:
        (B, 1, H, W), bool: True at the images' own positions.

    Raises:
        TypeError: if ``extent`` is no tensor (B, 2).
    """
    if not isinstance(extent, Tensor) or extent.dim() != 2:
        raise TypeError(
            "extent must be an integer tensor (B, 2) with each image's height and width in cells "
            "of the map; map_extent() makes it from pixels"
        )
    rows = torch.arange(map_.shape[2], device=map_.device) < extent[:, :1]
    columns = torch.arange(map_.shape[3], device=map_.device) < extent[:, 1:]
    return (rows[:, :, None] & columns[:, None, :])[:, None]
