"""How much of a batch is each image's own, read off the batch itself.

detectron2 hands a backbone one tensor, in which the images are normalised and then padded with
exact zeros at their right and lower edges, to the size of the largest and to a multiple of the
network's stride. So an image ends at its last row and column that hold anything but zeros. One
whose own last rows are the mean colour to the last bit ends before them; what the network makes of
it still depends on nothing but the image.
"""

import inspect

import torch
from torch import Tensor, nn

from enl_detectron2.layers.extent import in_graph


def image_extent(images: Tensor) -> Tensor:
    """The size of each image without its padding, on the CPU unless part of a graph.

    Args:
        images: (B, C, H, W), normalised, then padded with zeros.

    Returns:
        (B, 2), heights and widths; the whole (H, W) for an image of nothing but zeros.
    """
    extent = torch.stack([_length(images, 2), _length(images, 3)], dim=1)
    if torch.jit.is_scripting() or in_graph():
        return extent
    return extent.cpu()


def _length(images: Tensor, dim: int) -> Tensor:
    """(B,): 1 + the last index along ``dim`` with anything but zeros; the whole length if none."""
    length = images.shape[dim]
    # A graph can't decide on what it sees; TorchScript leaves out a branch of a statement only.
    if torch.jit.is_scripting() or in_graph():  # noqa: SIM108
        strip = length
    else:
        strip = _strip_with_content(images, dim)
    count = torch.arange(1, strip + 1, device=images.device)
    last = (_nonzero(images, dim, strip) * count).amax(dim=1)
    return torch.where(last > 0, last + (length - strip), length)


def _strip_with_content(images: Tensor, dim: int) -> int:
    """How much of the end along ``dim`` has to be seen; a padding is usually narrow."""
    length = images.shape[dim]
    strip = min(32, length)
    while strip < length and not bool(_nonzero(images, dim, strip).any(dim=1).all()):
        strip = min(4 * strip, length)
    return strip


def _nonzero(images: Tensor, dim: int, strip: int) -> Tensor:
    """(B, strip): which of the last indices along ``dim`` hold anything but zeros."""
    end = images.detach().narrow(dim, images.shape[dim] - strip, strip)
    return end.abs().amax(dim=[1, 5 - dim]) != 0


def map_extent(extent: Tensor, stride: int) -> Tensor:
    """``extent`` in cells of a map of the given stride; a cell that is partly padding counts."""
    return torch.div(extent + (stride - 1), stride, rounding_mode="floor")


def takes_extent(block: nn.Module) -> bool:
    """Whether ``block`` is called as ``block(x, extent)``, or as ``block(x)``."""
    return "extent" in inspect.signature(block.forward).parameters


class WithoutExtent(nn.Module):
    """A block that is called as ``block(x)``, to be called as those that take an extent are."""

    def __init__(self, block: nn.Module):
        super().__init__()
        self.block = block

    def forward(self, x: Tensor, extent: Tensor | None = None) -> Tensor:
        """``block(x)``."""
        return self.block(x)
