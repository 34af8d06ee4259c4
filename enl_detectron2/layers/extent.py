"""Which part of a padded feature map belongs to its image.

A batch has one size, so smaller images are padded at their right and lower edges. An ``extent`` is
an integer tensor (B, 2) with the height and width, at least 1, that each image itself has on the
map; the rest is padding, which a block with an extent leaves as it is and never looks at.
"""

import torch
from torch import Tensor

Padding = list[tuple[slice, ...]]  # where a map is padding, see paddings()


def in_graph() -> bool:
    """Whether operations are recorded for other inputs, so that no size may become a number.

    TorchScript isn't meant: it leaves out a branch only where is_scripting() stands at the branch.
    """
    return torch.jit.is_tracing() or torch.compiler.is_compiling()


def inside(extent: Tensor, like: Tensor) -> Tensor:
    """(B, 1, H, W), True at the images' own positions on the map ``like`` (B, C, H, W)."""
    extent = extent.to(like.device)
    rows = torch.arange(like.shape[2], device=like.device) < extent[:, :1]
    columns = torch.arange(like.shape[3], device=like.device) < extent[:, 1:]
    return (rows[:, :, None] & columns[:, None, :])[:, None]


def shared_extent(extent: Tensor) -> list[int] | None:
    """Height and width, if all images of the batch have the same."""
    own = extent.tolist()
    return own[0] if own.count(own[0]) == len(own) else None


def count_inside(extent: Tensor | None, like: Tensor) -> int | Tensor:
    """N: one number, or each image's own, (B, 1, 1), in float32, or float64 if ``like`` is."""
    if extent is None:
        return like.shape[2] * like.shape[3]
    if not in_graph() and (shared := shared_extent(extent)):
        return shared[0] * shared[1]
    dtype = torch.promote_types(like.dtype, torch.float32)
    return extent.prod(dim=1)[:, None, None].to(like.device, dtype)


def paddings(extent: Tensor, like: Tensor) -> Padding:
    """Where a map of the size of ``like`` (B, C, H, W) is padding: indices of views of it.

    Two at most for an image, or for the batch if its images share one extent. A mask would be a
    pass over the whole map, for the few positions of a padding.
    """
    if shared := shared_extent(extent):
        groups = [(slice(None), shared)]
    else:
        groups = [(slice(index, index + 1), own) for index, own in enumerate(extent.tolist())]
    places: Padding = []
    for images, (height, width) in groups:
        if height < like.shape[2]:
            places.append((images, slice(None), slice(height, None)))
        if width < like.shape[3]:
            places.append((images, slice(None), slice(height), slice(width, None)))
    return places


def drop_full(extent: Tensor | None, like: Tensor) -> Tensor | None:
    """``extent``, or None if every image fills the map ``like`` and there is no padding."""
    if torch.jit.is_scripting():
        return extent
    if extent is None or in_graph():
        return extent
    full = [like.shape[2], like.shape[3]]
    return None if all(own == full for own in extent.tolist()) else extent
