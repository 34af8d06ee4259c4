"""The papers' control: as many layers, but each position sees its neighbours only."""

from torch import Tensor, nn

from .relation_block import INIT_STD, init_projections


class Conv5x5Block(nn.Module):
    """``z = x + conv(x)`` with a 5×5 convolution C → C, initialised as the non-local blocks are."""

    def __init__(self, channels: int, *, init_std: float = INIT_STD):
        """
        Args:
            channels: C, of the block's input and output.
            init_std: σ of the first weights.

        Raises:
            InvalidOption: unless σ is above 0.
        """
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, kernel_size=5, padding=2)
        init_projections((self.conv,), init_std)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) in, the same out."""
        return x + self.conv(x)
