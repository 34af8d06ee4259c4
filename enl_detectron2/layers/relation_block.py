"""What all blocks have in common, and two kinds that relate no positions."""

import inspect
import math
import warnings
from collections.abc import Callable, Sequence
from numbers import Integral, Real
from typing import Any, ClassVar

from torch import Tensor, nn

INIT_STD = 0.01  # in both papers


class InvalidOption(ValueError):
    """``option``, the name of an argument, has a ``problem``, such as "must be …"."""

    def __init__(self, option: str, problem: str):
        super().__init__(f"{option} {problem}")
        self.option, self.problem = option, problem


def check_choice(option: str, value: object, choices: Sequence[str], remedy: str = "") -> None:
    """Raises :class:`InvalidOption` unless ``value`` is one of ``choices``."""
    if value not in choices:
        expected = ", ".join(map(repr, choices))
        raise InvalidOption(option, f"must be one of {expected}, got {value!r}{remedy}")


def check_positive(option: str, value: Any, kind: Any = Real) -> None:
    """Raises :class:`InvalidOption` unless ``value`` is above 0, finite, and Real or Integral."""
    if isinstance(value, bool) or not isinstance(value, kind) or not 0 < value < math.inf:
        expected = "a whole number of at least 1" if kind is Integral else "a number above 0"
        raise InvalidOption(option, f"must be {expected}, got {value!r}")


def option_names(block: Callable) -> list[str]:
    """The options that a block's class takes: its arguments after ``channels``."""
    return list(inspect.signature(block).parameters)[1:]


class RelationBlock(nn.Module):
    """A block between feature maps of one size, (B, C, H, W) in and the same out.

    Its constructor takes the channels C, then its options, and keeps each option as an attribute of
    the same name. A subclass implements :meth:`forward` and :meth:`zero_init`.
    """

    # Options that only say how weights start: they are not compared when weights are loaded.
    init_options: ClassVar[tuple[str, ...]] = ("init_std",)

    def forward(self, x: Tensor, extent: Tensor | None = None) -> Tensor:
        """(B, C, H, W) in, the same out, in the memory format of ``x``.

        ``extent`` (B, 2) is the part of the map that belongs to each image, None the whole map: see
        :mod:`enl_detectron2.layers.padding`. A block that relates positions treats each image as if
        it came alone: it ignores the padding, and leaves it unchanged. Raises TypeError if
        ``extent`` is no tensor of two dimensions.
        """
        raise NotImplementedError

    def zero_init(self) -> None:
        """Makes the block the identity, from which it can still learn."""
        raise NotImplementedError

    def options(self) -> dict[str, Any]:
        """The options that the block was made with, defaults included, by their names."""
        return {name: getattr(self, name) for name in option_names(type(self))}

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={value}" for name, value in self.options().items())


class MapBlock(RelationBlock):
    """``z = module(x)``: any module as a block, nn.Identity() where there is none.

    The module isn't told where images end, and so relates them to the padding of their batch.
    """

    def __init__(self, module: nn.Module):
        super().__init__()
        self.module = module
        if any(isinstance(part, RelationBlock) for part in module.modules()):
            warnings.warn(
                f"{type(module).__name__} takes the map alone, so the relation block in it gets no "
                "extent and looks at the padding as well",
                stacklevel=2,
            )

    def forward(self, x: Tensor, extent: Tensor | None = None) -> Tensor:
        return self.module(x)

    def zero_init(self) -> None:
        """Raises InvalidOption (a ValueError), as any module may have no identity in reach."""
        kind = type(self.module).__name__
        raise InvalidOption("zero_init_residual", f"needs a RelationBlock, and {kind} is none")


class Conv5x5Block(RelationBlock):
    """``z = x + conv(x)``, a 5×5 convolution C → C: the papers' control, which relates neighbours
    only. ``extent`` has no effect.

    Args:
        channels: C, of the maps (B, C, H, W) in and out.
        init_std: σ of the Gaussian that the weights start from.

    Raises InvalidOption (a ValueError) if σ is not above 0.
    """

    def __init__(self, channels: int, *, init_std: float = INIT_STD):
        super().__init__()
        self.init_std = init_std
        self.conv = nn.Conv2d(channels, channels, kernel_size=5, padding=2)
        init_gaussian(self.conv, init_std)

    def forward(self, x: Tensor, extent: Tensor | None = None) -> Tensor:
        return x + self.conv(x)

    def zero_init(self) -> None:
        zero_layer(self.conv)


class ProjectedBlock(RelationBlock):
    """The two non-local blocks' common part: ``z = x + out(F̃ g)`` with F̃ made of θ and φ.

    ``theta``, ``phi``, ``g``: C → D and ``out``: D → C are 1×1 convolutions with bias. What a block
    adds is a product of all four, so at the papers' σ = 0.01 it starts at a few per cent of x.
    """

    def __init__(self, channels: int, inner_channels: int | None, init_std: float):
        super().__init__()
        inner_channels = channels // 2 if inner_channels is None else inner_channels
        check_positive("inner_channels", inner_channels, Integral)
        self.inner_channels, self.init_std = inner_channels, init_std
        self.theta, self.phi, self.g = (nn.Conv2d(channels, inner_channels, 1) for _ in range(3))
        self.out = nn.Conv2d(inner_channels, channels, 1)
        for layer in (self.theta, self.phi, self.g, self.out):
            init_gaussian(layer, init_std)

    def zero_init(self) -> None:
        zero_layer(self.out)


def init_gaussian(layer: nn.Conv2d, init_std: float) -> None:
    """Gaussian weights with σ = ``init_std``, which must be above 0, and biases at zero."""
    check_positive("init_std", init_std)
    zero_layer(layer)
    nn.init.normal_(layer.weight, std=init_std)


def zero_layer(layer: nn.Module) -> None:
    """Sets all parameters of a layer to zero."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
