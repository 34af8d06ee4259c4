"""What the non-local blocks share: four 1×1 projections around a relation of all positions."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from .extent import drop_full, inside
from .options import InvalidOption

INIT_STD = 0.01  # in both papers


def init_projections(projections: Iterable[nn.Conv2d], std: float) -> None:
    """Gaussian weights with σ = ``std``, biases at zero.

    Raises:
        InvalidOption: unless ``std`` is above 0.
    """
    if not std > 0:
        raise InvalidOption("init_std", "a number above 0", std)
    for projection in projections:
        nn.init.normal_(projection.weight, std=std)
        nn.init.zeros_(projection.bias)


class RelationBlock(nn.Module):
    """``z = x + out(y)``, where a subclass says how ``y`` follows from θ, φ and g of ``x``.

    The projections ``theta``, ``phi``, ``g``: C → D and ``out``: D → C are 1×1 convolutions with
    bias. Weights start as Gaussian with σ = ``init_std``, biases at zero. What the block adds is a
    product of all four, so at the papers' σ = 0.01 it starts at a few per cent of x.

    An optional ``extent`` (B, 2) says how much of the map is each image's own, see
    :mod:`enl_detectron2.layers.extent`. The block then works as if the image had come alone: it
    looks at nothing in the padding, and leaves there what it finds.
    """

    def __init__(
        self, channels: int, inner_channels: int | None = None, *, init_std: float = INIT_STD
    ):
        """
        Args:
            channels: C, of the block's input and output.
            inner_channels: D, inside the block. None means ``channels // 2``.
            init_std: σ of the projections' first weights.

        Raises:
            InvalidOption: if D is below 1, or σ isn't above 0.
        """
        super().__init__()
        if inner_channels is None:
            inner_channels = channels // 2
        if inner_channels < 1:
            raise InvalidOption("inner_channels", "at least 1", inner_channels)
        self.theta = nn.Conv2d(channels, inner_channels, kernel_size=1)
        self.phi = nn.Conv2d(channels, inner_channels, kernel_size=1)
        self.g = nn.Conv2d(channels, inner_channels, kernel_size=1)
        self.out = nn.Conv2d(inner_channels, channels, kernel_size=1)
        init_projections((self.theta, self.phi, self.g, self.out), init_std)

    def relate(self, theta: Tensor, phi: Tensor, g: Tensor, extent: Tensor | None = None) -> Tensor:
        """``y`` from θ, φ and g, each (B, D, H, W); the same shape out.

        With ``extent`` nothing of φ and g counts in the padding; there ``y`` means nothing.
        """
        raise NotImplementedError

    def forward(self, x: Tensor, extent: Tensor | None = None) -> Tensor:
        """(B, C, H, W) in, the same out."""
        extent = drop_full(extent, x)
        z = x + self.out(self.relate(self.theta(x), self.phi(x), self.g(x), extent))
        return z if extent is None else torch.where(inside(extent, x), z, x)
