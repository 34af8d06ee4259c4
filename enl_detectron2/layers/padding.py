"""Which part of a padded map belongs to its image: images → extent → cells.

A batch has one size, so smaller images are padded at their right and lower edges. An *extent* is
an integer tensor (B, 2) with the height and width, at least 1, that each image itself has on a
map; more than the map has counts as the whole map. Nothing here asks a tensor for a value, so a
GPU never waits, and the same code is traced, scripted, compiled and exported.
"""

import torch
from torch import Tensor


def image_extent(images: Tensor) -> Tensor:
    """The heights and widths (B, 2), in pixels, of images (B, C, H, W) before their padding.

    They are normalised, then padded with zeros, so an image ends where nothing but zeros follows.
    One whose own last rows are exactly the mean colour ends before them; all zeros count as whole.
    """
    sizes = images.abs()
    return torch.stack([_end(sizes.amax(dim=[1, 3])), _end(sizes.amax(dim=[1, 2]))], dim=1)


def _end(largest: Tensor) -> Tensor:
    """(B,): 1 + the last index (B, length) along a line that isn't 0; the length if all are."""
    belongs = (largest != 0).int()  # what is no number does, too
    return largest.shape[1] - belongs.flip(1).argmax(dim=1)  # of equals the first


def map_extent(extent: Tensor, stride: int) -> Tensor:
    """An extent (B, 2) in pixels as one in cells of ``stride`` pixels, partly padded ones too."""
    return torch.div(extent + (stride - 1), stride, rounding_mode="floor")


def inside(extent: Tensor, map_: Tensor) -> Tensor:
    """(B, 1, H, W), bool: where a map (B, C, H, W) is its image's own, by an extent (B, 2) in its
    cells. Raises TypeError if that is no tensor (B, 2)."""
    if not isinstance(extent, Tensor) or extent.dim() != 2:
        expected = "an integer tensor (B, 2), each image's height and width in cells of the map"
        raise TypeError(f"extent must be {expected}; map_extent() makes it from pixels")
    # Enough cells for either direction.
    cells = torch.arange(map_.shape[2] + map_.shape[3], device=map_.device)
    own = cells < extent[:, :, None]
    return own[:, :1, : map_.shape[2], None] & own[:, 1:, None, : map_.shape[3]]
