"""Which part of a padded map belongs to its image: images → extent → cells.

A batch has one size, so smaller images are padded at their right and lower edges. An *extent* is
an integer tensor (B, 2): the height and width of each image on a map without its padding, at least
1; larger values than the map's mean the whole map. No tensor's value is read in Python, so a GPU
never waits, and the same code is traced, scripted, compiled and exported.
"""

import torch
from torch import Tensor


def image_extent(images: Tensor) -> Tensor:
    """The heights and widths (B, 2), in pixels, of images (B, C, H, W) before their padding.

    They must be normalised and then padded with zeros: an image ends where only zeros follow. Last
    rows of exactly the mean colour count as padding; an image of zeros alone counts as whole.
    """
    sizes = images.abs()
    return torch.stack([_end(sizes.amax(dim=[1, 3])), _end(sizes.amax(dim=[1, 2]))], dim=1)


def _end(largest: Tensor) -> Tensor:
    """(B,): 1 + the last index (B, length) along a line that isn't 0; the length if all are."""
    belongs = (largest != 0).int()  # NaN as well
    return largest.shape[1] - belongs.flip(1).argmax(dim=1)  # the first of equals


def map_extent(extent: Tensor, stride: int) -> Tensor:
    """``⌈extent / stride⌉``: an extent (B, 2) in pixels as one in cells of ``stride`` pixels, those
    included that are padded in part."""
    return torch.div(extent + (stride - 1), stride, rounding_mode="floor")


def inside(extent: Tensor, map_: Tensor) -> Tensor:
    """A mask (B, 1, H, W) of a map (B, C, H, W), False in the padding. ``extent`` (B, 2) is in the
    map's cells; raises TypeError if it isn't a tensor of two dimensions."""
    if not isinstance(extent, Tensor) or extent.dim() != 2:
        expected = "an integer tensor (B, 2), each image's height and width in cells of the map"
        raise TypeError(f"extent must be {expected}; map_extent() makes it from pixels")
    # Enough cells for either direction.
    cells = torch.arange(map_.shape[2] + map_.shape[3], device=map_.device)
    own = cells < extent[:, :, None]
    return own[:, :1, : map_.shape[2], None] & own[:, 1:, None, : map_.shape[3]]
