"""Relative position: matrices L over pairs of positions, applied in separable form.

For a map of N = H·W positions L is N×N, but the Kronecker product ``L_h ⊗ L_w`` of a matrix along
the height and one along the width, so ``L g`` is a few small products, and where L is added to an
affinity it is never formed.

To add a term: derive from :class:`SeparablePosition`, and register the class by a name.
"""

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from numbers import Integral
from typing import Any

import torch
from torch import Tensor, nn

from .relation_block import InvalidOption, check_choice, check_positive

# The terms by the names that a block's option ``position`` combines with a way: "cos" → "cos_add".
# The keyword arguments of a term's constructor are its ``position_options``.
POSITION_REGISTRY: dict[str, type["SeparablePosition"]] = {}


def register_position(name: str) -> Callable[[type], type]:
    """Decorates a :class:`SeparablePosition`, which becomes the term ``name``.

    Raises ValueError if the name is taken.
    """

    def register(term: type) -> type:
        if name in POSITION_REGISTRY:
            raise ValueError(f"a position term named {name!r} is already registered")
        POSITION_REGISTRY[name] = term
        return term

    return register


def dct_basis(length: int, count: int) -> Tensor:
    """The ``count`` lowest frequencies of the orthonormal DCT-II over ``length`` samples.

    ``E[n, k] = s_k cos(π (n + ½) k / length)`` with ``s_0 = √(1/length)``, ``s_k = √(2/length)``:
    (length, count) in float64, orthonormal columns (``EᵀE = I``), lowest frequency first. Raises
    ValueError if ``count`` is not within 1 … length.
    """
    if not 1 <= count <= length:
        raise ValueError(f"count must be from 1 to length={length}, got {count}")
    cell, frequency = torch.arange(length).double(), torch.arange(count).double()
    scale = torch.where(frequency > 0, 2.0, 1.0).double().div(length).sqrt()
    return scale * torch.cos(_phase(cell, frequency) / length)


def _phase(cell: Tensor, frequency: Tensor) -> Tensor:
    """``π (n + ½) k``, (length, count)."""
    return (cell[:, None] + 0.5) * (frequency * math.pi)


class SeparablePosition(nn.Module):
    """``L = L_h ⊗ L_w``: a matrix over pairs of positions that splits into height and width.

    A subclass gives the matrix along one direction, :meth:`kernel`. From it follow the term that
    is added to an affinity, with rows that sum to 1 as a softmax's do, and the one that multiplies.
    """

    def kernel(self, cell: Tensor, own: Tensor) -> Tensor:
        """The matrix along one direction, (B or 1, length, length), with any values in the padding.

        ``cell`` (length,) is 0.0, 1.0, …; ``own`` (B or 1,) is how many cells each image has.
        """
        raise NotImplementedError

    def kernels(
        self, map_: Tensor, extent: Tensor | None = None, normalized: bool = False
    ) -> list[Tensor]:
        """L_h (B or 1, H, H) and L_w (B or 1, W, W), zero in the padding. If ``normalized``, as
        where L is added, the rows elsewhere sum to 1."""
        cells, owns = _cells(map_, extent)
        kernels: list[Tensor] = []
        for direction in range(2):
            cell, own = cells[: map_.shape[2 + direction]], owns[direction]
            is_own = cell < own[:, None]
            kernel = self.kernel(cell, own) * is_own[:, :, None] * is_own[:, None, :]
            if normalized:
                sums = kernel.sum(dim=2, keepdim=True)
                kernel = kernel / torch.where(sums == 0, 1.0, sums)
            kernels.append(kernel)
        return kernels

    def matrix(self, map_: Tensor, extent: Tensor | None = None) -> Tensor:
        """L itself, not normalised: (B or 1, 1, N, N), positions in the order of ``flatten``."""
        kernels = self.kernels(map_, extent)
        product = kernels[0][:, :, None, :, None] * kernels[1][:, None, :, None, :]
        return product.flatten(3, 4).flatten(1, 2)[:, None].to(map_.dtype)

    def factors(self, map_: Tensor, extent: Tensor | None = None) -> list[Tensor]:
        """down_h, up_h, down_w, up_w for the size, type and device of a map (B, C, H, W).

        ``down`` (B or 1, T, length) pools a line of cells to T tokens, ``up`` (B or 1, length, T)
        spreads them, but not into the padding. ``up @ down`` is the normalised kernel; the rows of
        both sum to 1 if the kernel's do. Here T = length; a term of low rank can override this
        with smaller factors.
        """
        cells, owns = _cells(map_, extent)
        factors: list[Tensor] = []
        for direction, down in enumerate(self.kernels(map_, extent, normalized=True)):
            cell = cells[: down.shape[2]]
            up = (cell[:, None] == cell) & (cell < owns[direction][:, None])[:, :, None]
            factors += [down.to(map_.dtype), up.to(map_.dtype)]
        return factors

    def pool(self, x: Tensor, factors: list[Tensor]) -> Tensor:
        """The tokens of a map, ``(down_h ⊗ down_w) x``: (B, C, H, W) in, (B, T_h·T_w, C) out."""
        batch, channels, height, _ = x.shape
        down_h, down_w = factors[0], factors[2]
        if x.stride(1) == 1:  # channels-last; without its branches a block takes 2.7 times as long
            down_w = down_w[:, None].expand(batch, height, -1, -1)
            lines = down_w @ x.permute(0, 2, 3, 1)  # (B, H, T_w, C)
        else:
            lines = x.flatten(1, 2) @ down_w.transpose(1, 2)  # (B, C·H, T_w)
            lines = lines.view(batch, channels, height, down_w.shape[1]).permute(0, 2, 3, 1)
        tokens = down_h.expand(batch, -1, -1) @ lines.flatten(2)
        return tokens.view(batch, tokens.shape[1] * lines.shape[2], channels)

    def spread_(self, tokens: Tensor, factors: list[Tensor], z: Tensor) -> Tensor:
        """``z + up tokens``, with the tokens of x ``z + L x``, in the memory of the map z
        (B, C, H, W), which autograd must not need itself."""
        batch, channels, height, width = z.shape
        up_h, up_w = factors[1].to(z.dtype), factors[3].to(z.dtype)
        tokens = tokens.reshape(batch, up_h.shape[2], up_w.shape[2], channels)
        up_h = up_h.expand(batch, -1, -1)
        if z.stride(1) == 1:
            lines = up_w[:, None].expand(batch, tokens.shape[1], -1, -1) @ tokens
            rows = z.permute(0, 2, 3, 1).flatten(2).baddbmm_(up_h, lines.flatten(2))
            return rows.view(batch, height, width, channels).permute(0, 3, 1, 2)
        lines = (up_h @ tokens.flatten(2)).view(batch, height, tokens.shape[2], channels)
        lines = lines.permute(0, 3, 1, 2).flatten(1, 2)  # (B, C·H, T_w)
        up_w = up_w.transpose(1, 2).expand(batch, -1, -1)
        return z.flatten(1, 2).baddbmm_(lines, up_w).view_as(z)


@register_position("cos")
class CosPosition(SeparablePosition):
    """``L = Ê Êᵀ``: a low-pass filter over the map's lowest 2-D cosine frequencies.

    ``Ê = E_h ⊗ E_w`` holds the lowest K² columns of the orthonormal 2-D DCT-II, K =
    ``num_frequencies``, or as many as the map has cells. Along one direction ``E Eᵀ = up down``
    shrinks the line to K samples by its lowest cosines and interpolates back; S = dct_basis(K, K),
    and the roots make both keep constants::

        down = S Eᵀ √(K/length)        up = E Sᵀ √(length/K)

    Raises InvalidOption (a ValueError) if ``num_frequencies`` is no whole number of at least 1.
    """

    def __init__(self, num_frequencies: int = 9):
        super().__init__()
        check_positive("num_frequencies", num_frequencies, Integral)
        self.num_frequencies = num_frequencies

    def kernel(self, cell: Tensor, own: Tensor) -> Tensor:
        frequency = torch.arange(self.num_frequencies, dtype=cell.dtype, device=cell.device)
        waves = _waves(cell, frequency, _phase(cell, frequency), own)
        products = 2 * (waves[:, :, None] * waves[:, None]).sum(dim=3)
        return (products - 1) / own[:, None, None]

    def factors(self, map_: Tensor, extent: Tensor | None = None) -> list[Tensor]:
        # Heights and widths as one batch: a GPU is asked for half as many operations.
        height, width, count = map_.shape[2], map_.shape[3], self.num_frequencies
        cells, owns = _cells(map_, extent, count)
        frequency = cells[:count]
        phase = _phase(cells, frequency)
        waves = _waves(cells, frequency, phase, owns)  # (2, B, cells, K)
        samples = torch.cos(phase[:count] / count)
        # √length E Sᵀ √K. As a sum, so that no lower precision of products (TF32) rounds it.
        products = 2 * (waves[..., None, :] * samples).sum(dim=-1) - waves[..., :1]
        up_h, up_w = (products / count).to(map_.dtype).unbind()
        down = (products / owns[..., None, None]).to(map_.dtype)
        down_h, down_w = down.transpose(2, 3).unbind()
        return [down_h[..., :height], up_h[:, :height], down_w[..., :width], up_w[:, :width]]


def _waves(cell: Tensor, frequency: Tensor, phase: Tensor, own: Tensor) -> Tensor:
    """``cos(phase / own)``, (…, length, count) for a phase (length, count) and ``own`` (…): zero
    beyond each image's own cells, and for the frequencies that so few cells don't have."""
    own = own[..., None, None]
    return torch.cos(phase / own) * (torch.maximum(cell[:, None], frequency) < own)


@register_position("l1")
class L1Position(SeparablePosition):
    """``L(i, j) = exp(−‖p_i − p_j‖₁ / scale)`` over the distance of two positions, in cells.

    On a large map its raw rows sum to thousands and would swamp an affinity; normalised ones sum
    to 1. Raises InvalidOption (a ValueError) if ``scale``, in cells, is not above 0.
    """

    def __init__(self, scale: float = 50.0):
        super().__init__()
        check_positive("scale", scale)
        self.scale = float(scale)

    def kernel(self, cell: Tensor, own: Tensor) -> Tensor:
        return torch.exp(-(cell[:, None] - cell).abs() / self.scale)[None]


def position_options_of(term: type[SeparablePosition]) -> dict[str, Any]:
    """The options of a term and their defaults: the arguments of its constructor."""
    variable = inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD
    parameters = inspect.signature(term).parameters.values()
    return {one.name: one.default for one in parameters if one.kind not in variable}


def build_position(
    position: str, ways: Sequence[str], options: Mapping[str, Any] | None
) -> tuple[SeparablePosition | None, dict[str, Any]]:
    """The term of a block's option ``position``, "TERM_WAY" or "none", and the options it has.

    Options of other registered terms are ignored, as a derived YAML file inherits those of its
    base. Raises InvalidOption for an unknown term or way, or an option that no term has.
    """
    term, _, way = position.rpartition("_")
    known = [f"{term}_{way}" for term in POSITION_REGISTRY for way in ways]
    remedy = "; a term of your own must be imported first (--import FILE.py)"
    check_choice("position", position, [*known, "none"], remedy)
    options = dict(options or {})
    names = {name for kind in POSITION_REGISTRY.values() for name in position_options_of(kind)}
    for name in options:
        if name not in names:
            problem = f"holds {name!r}; the position terms have {', '.join(sorted(names))}"
            raise InvalidOption("position_options", problem)
    if position == "none":
        return None, {}
    defaults = position_options_of(POSITION_REGISTRY[term])
    own = {**defaults, **{k: v for k, v in options.items() if k in defaults and v is not None}}
    try:
        return POSITION_REGISTRY[term](**own), own
    except InvalidOption as error:
        raise InvalidOption("position_options", f"of {term}: {error}") from error


def _cells(map_: Tensor, extent: Tensor | None, more: int = 0) -> tuple[Tensor, Tensor]:
    """The numbers 0.0, 1.0, … of a map's cells, enough for either direction and ``more``, and how
    many are each image's own along the height and the width, (2, B or 1): in float32 at least."""
    dtype = torch.float64 if map_.dtype == torch.float64 else torch.float32
    height, width = map_.shape[2], map_.shape[3]
    cells = torch.arange(height + width + more, dtype=dtype, device=map_.device)
    owns = torch.stack([cells[height : height + 1], cells[width : width + 1]])
    return cells, owns if extent is None else torch.minimum(extent.transpose(0, 1), owns)
