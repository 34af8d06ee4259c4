"""Which part of a padded feature map belongs to its image.

A batch has one size, so smaller images are padded at their right and lower edges. An ``extent`` is
an integer tensor (B, 2) with the height and width, at least 1, that each image itself has on the
map; the rest is padding, which a block with an extent leaves as it is and never looks at.
"""

from collections.abc import Iterator

import torch
from torch import Tensor


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


def count_inside(extent: Tensor, like: Tensor) -> Tensor:
    """(B, 1), each image's own number N of positions, in float32, or float64 if ``like`` is."""
    dtype = torch.promote_types(like.dtype, torch.float32)
    return extent.prod(dim=1, keepdim=True).to(like.device, dtype)


def paddings(maps: Tensor, extent: Tensor) -> Iterator[tuple[int, Tensor]]:
    """What of (B, C, H, W) is padding: an image's index and a view of it, two at most an image.

    A mask over the whole map would be a pass over all of it, for the few positions of a padding.
    """
    for index, (height, width) in enumerate(extent.tolist()):
        if height < maps.shape[2]:
            yield index, maps[index, :, height:]
        if width < maps.shape[3]:
            yield index, maps[index, :, :height, width:]


def fill_padding_(maps: Tensor, extent: Tensor, value: float) -> Tensor:
    """Writes ``value`` into the padding of (B, C, H, W), unknown to autograd."""
    with torch.no_grad():
        for _, padding in paddings(maps, extent):
            padding.fill_(value)
    return maps


def drop_full(extent: Tensor | None, like: Tensor) -> Tensor | None:
    """``extent``, or None if every image fills the map ``like`` and there is no padding."""
    if torch.jit.is_scripting():
        return extent
    if extent is None or in_graph():
        return extent
    full = [like.shape[2], like.shape[3]]
    return None if all(own == full for own in extent.tolist()) else extent
