"""What all blocks have in common, and two that relate no positions: none, and the 5×5 control."""

import inspect
import math
from collections.abc import Iterable, Sequence
from numbers import Real
from typing import Any

from torch import Tensor, nn

INIT_STD = 0.01  # in both papers


class InvalidOption(ValueError):
    """An argument is wrong: ``option`` "must be" what is ``expected``, and is ``value``."""

    def __init__(self, option: str, expected: str, value: object):
        super().__init__(f"{option} must be {expected}, got {value!r}")
        self.option = option


def check_choice(option: str, value: object, choices: Sequence[str]) -> None:
    """Raises :class:`InvalidOption` unless ``value`` is one of ``choices``."""
    if value not in choices:
        raise InvalidOption(option, "one of " + ", ".join(map(repr, choices)), value)


def check_number(option: str, value: object) -> None:
    """Raises :class:`InvalidOption` unless ``value`` is a finite number above 0."""
    if isinstance(value, bool) or not isinstance(value, Real) or not 0 < float(value) < math.inf:
        raise InvalidOption(option, "a number above 0", value)


def check_count(option: str, value: object) -> None:
    """Raises :class:`InvalidOption` unless ``value`` is a whole number of at least 1."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise InvalidOption(option, "a whole number of at least 1", value)


class RelationBlock(nn.Module):
    """A block between feature maps of one size, (B, C, H, W) in and the same out.

    Its constructor takes the channels C, then its options, and keeps each option as an attribute of
    the same name. A subclass implements :meth:`forward` and :meth:`zero_init`.
    """

    def forward(self, x: Tensor, extent: Tensor | None = None) -> Tensor:
        """
        Args:
            x: (B, C, H, W).
            extent: (B, 2), which part of the map is each image's own, see
                :mod:`enl_detectron2.layers.padding`; None is all of it. A block that relates
                positions works as if each image had come alone: it looks at nothing in the
                padding, and leaves there what it finds.

        Returns:
            (B, C, H, W), in the memory format of ``x``.
        """
        raise NotImplementedError

    def zero_init(self) -> None:
        """Makes the block the identity, from which it can still learn."""
        raise NotImplementedError

    def options(self) -> dict[str, Any]:
        """The options that the block was made with, defaults included, by their names."""
        names = list(inspect.signature(type(self)).parameters)[1:]
        return {name: getattr(self, name) for name in names}

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={value}" for name, value in self.options().items())


class EmptyBlock(RelationBlock):
    """``z = x``, for a level without a block."""

    def __init__(self, channels: int):
        super().__init__()

    def forward(self, x: Tensor, extent: Tensor | None = None) -> Tensor:
        return x

    def zero_init(self) -> None:
        pass


class Conv5x5Block(RelationBlock):
    """``z = x + conv(x)`` with a 5×5 convolution C → C: the papers' control, which sees neighbours.

    Weights start as Gaussian with σ = ``init_std``. ``extent`` makes no difference to it.
    """

    def __init__(self, channels: int, *, init_std: float = INIT_STD):
        super().__init__()
        self.init_std = init_std
        self.conv = nn.Conv2d(channels, channels, kernel_size=5, padding=2)
        init_gaussian((self.conv,), init_std)

    def forward(self, x: Tensor, extent: Tensor | None = None) -> Tensor:
        return x + self.conv(x)

    def zero_init(self) -> None:
        zero_layer(self.conv)


class ProjectedBlock(RelationBlock):
    """The two non-local blocks' common part: ``z = x + out(F̃ g)`` with F̃ made of θ and φ.

    ``theta``, ``phi``, ``g``: C → D and ``out``: D → C are 1×1 convolutions with bias. What a block
    adds is a product of all four, so at the papers' σ = 0.01 it starts at a few per cent of x.
    """

    softmax_rows = False  # whether F is the softmax over j of θ̂_iᵀ φ̂_j, or that product itself
    multiply = False  # whether F̃ is F ⊙ L, or F + L, with L the block's ``position_term``

    def __init__(self, channels: int, inner_channels: int | None, init_std: float):
        super().__init__()
        if inner_channels is None:
            inner_channels = channels // 2
        check_count("inner_channels", inner_channels)
        self.inner_channels = inner_channels
        self.init_std = init_std
        self.theta = nn.Conv2d(channels, inner_channels, kernel_size=1)
        self.phi = nn.Conv2d(channels, inner_channels, kernel_size=1)
        self.g = nn.Conv2d(channels, inner_channels, kernel_size=1)
        self.out = nn.Conv2d(inner_channels, channels, kernel_size=1)
        init_gaussian((self.theta, self.phi, self.g, self.out), init_std)

    def zero_init(self) -> None:
        zero_layer(self.out)


def init_gaussian(layers: Iterable[nn.Conv2d], std: float) -> None:
    """Gaussian weights with σ = ``std``, which must be above 0, and biases at zero."""
    check_number("init_std", std)
    for layer in layers:
        nn.init.normal_(layer.weight, std=std)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)


def zero_layer(layer: nn.Module) -> None:
    """Sets all parameters of a layer to zero."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
