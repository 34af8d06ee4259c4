"""Relative position: matrices L over pairs of positions, applied in separable form.

L is N×N for a map of N = H·W positions, but the Kronecker product ``L_h ⊗ L_w`` of a matrix along
the height and one along the width. So ``L g`` is a few small products, and where L is added to an
affinity it is never formed.

To add a term: derive from :class:`SeparablePosition`, name the class in :data:`POSITION_TERMS`,
and give its options to the blocks' signatures.
"""

import math
from collections.abc import Sequence
from numbers import Integral
from typing import Any

import torch
from torch import Tensor, nn

from .relation_block import check_choice, check_positive


def dct_basis(length: int, count: int) -> Tensor:
    """The ``count`` lowest frequencies of the orthonormal DCT-II over ``length`` samples.

    ``E[n, k] = s_k cos(π (n + ½) k / length)`` with ``s_0 = √(1/length)``, ``s_k = √(2/length)``:
    (length, count) in float64, orthonormal columns (``EᵀE = I``), lowest frequency first. Raises
    ValueError if ``count`` is not within 1 … length.
    """
    if not 1 <= count <= length:
        raise ValueError(f"count must lie within 1 and length={length}, got {count}")
    cell = torch.arange(length, dtype=torch.float64)
    return _cosines(cell, cell[-1:] + 1, count)[0] / math.sqrt(length)


def _cosines(cell: Tensor, own: Tensor, count: int) -> Tensor:
    """(B, length, count): √length times :func:`dct_basis` over each image's ``own`` (B,) cells;
    zero beyond them, and for frequencies that so few cells don't have."""
    frequency = torch.arange(count, dtype=cell.dtype, device=cell.device)
    own, position = own[:, None, None], cell[:, None]
    # The cosine as a sine, which ONNX Runtime has in float64 for Python 3.10, too.
    wave = torch.sin((position + 0.5) * (frequency * math.pi) / own + math.pi / 2)
    scale = torch.sqrt(frequency.clamp(max=1) + 1)
    return wave * scale * ((position < own) & (frequency < own))


class SeparablePosition(nn.Module):
    """``L = L_h ⊗ L_w``: a matrix over pairs of positions that splits into height and width.

    A subclass gives the matrix along one direction, :meth:`kernel`. From it follow the term that
    is added to an affinity, with rows that sum to 1 as a softmax's do, and the one that multiplies.
    """

    def kernel(self, cell: Tensor, own: Tensor) -> Tensor:
        """The matrix along one direction, (B or 1, length, length), whatever in the padding, for
        the numbers ``cell`` (length,) = 0.0, 1.0, …; ``own`` (B or 1,) are each image's own."""
        raise NotImplementedError

    def kernels(
        self, map_: Tensor, extent: Tensor | None = None, normalized: bool = False
    ) -> list[Tensor]:
        """L_h (B or 1, H, H) and L_w (B or 1, W, W), zero in the padding; ``normalized`` as where L
        is added: the rows elsewhere sum to 1."""
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

        ``down`` (B or 1, T, length) makes T tokens of a line of cells, ``up`` (B or 1, length, T)
        spreads them, and nothing into the padding; ``up @ down`` is the normalised kernel. A term
        of low rank can give smaller factors than these, T = length.
        """
        cells, owns = _cells(map_, extent)
        factors: list[Tensor] = []
        for direction, down in enumerate(self.kernels(map_, extent, normalized=True)):
            cell = cells[: down.shape[2]]
            up = (cell[:, None] == cell) & (cell < owns[direction][:, None])[:, :, None]
            factors += [down.to(map_.dtype), up.to(map_.dtype)]
        return factors

    # Without a copy, whether channels or positions are next to each other in memory. A product's
    # left factor is expanded, as matmul would do, so that fvcore counts all of it.

    def pool(self, x: Tensor, factors: list[Tensor]) -> Tensor:
        """The tokens of a map: (B, C, H, W) in, (B, T_h·T_w, C) out."""
        batch, channels, height, _ = x.shape
        down_h, down_w = factors[0], factors[2]
        if x.stride(1) == 1:
            down_w = down_w[:, None].expand(batch, height, -1, -1)
            lines = (down_w @ x.permute(0, 2, 3, 1)).flatten(2)
            return (down_h.expand(batch, -1, -1) @ lines).view(batch, -1, channels)
        down_h = down_h[:, None].expand(batch, channels, -1, -1)
        return (down_h @ x @ down_w.transpose(1, 2)[:, None]).flatten(2).transpose(1, 2)

    def spread_(self, tokens: Tensor, factors: list[Tensor], z: Tensor) -> Tensor:
        """``z + up tokens``, with the tokens of x ``z + L x``, in the memory of the map z
        (B, C, H, W), which autograd must not need itself."""
        batch, channels, height, width = z.shape
        up_h, up_w = factors[1].to(z.dtype), factors[3].to(z.dtype)
        tokens = tokens.reshape(batch, up_h.shape[2], up_w.shape[2], channels)
        if z.stride(1) == 1:
            lines = up_w[:, None].expand(batch, tokens.shape[1], -1, -1) @ tokens
            rows = z.permute(0, 2, 3, 1).flatten(2)
            rows = rows.baddbmm_(up_h.expand(batch, -1, -1), lines.flatten(2))
            return rows.view(batch, height, width, channels).permute(0, 3, 1, 2)
        lines = tokens.permute(0, 3, 1, 2) @ up_w.transpose(1, 2)[:, None]
        up_h = up_h[:, None].expand(batch, channels, -1, -1).flatten(0, 1)
        return z.flatten(0, 1).baddbmm_(up_h, lines.flatten(0, 1)).view_as(z)


class CosPosition(SeparablePosition):
    """``L = Ê Êᵀ``: a low-pass filter over the map's lowest 2-D cosine frequencies.

    ``Ê = E_h ⊗ E_w`` holds the lowest K² columns of the orthonormal 2-D DCT-II, K =
    ``num_frequencies``; a shorter map has its own length's frequencies only. Along one direction
    ``E Eᵀ = up down`` shrinks the line to K samples by its lowest cosines and interpolates back by
    the same, with S = dct_basis(K, K) and roots that make both keep constants::

        down = S Eᵀ √(K/length)        up = E Sᵀ √(length/K)
    """

    def __init__(self, num_frequencies: int = 9):
        super().__init__()
        check_positive("num_frequencies", num_frequencies, Integral)
        self.num_frequencies = num_frequencies

    def kernel(self, cell: Tensor, own: Tensor) -> Tensor:
        waves = _cosines(cell, own, self.num_frequencies)
        return (waves[:, :, None] * waves[:, None]).sum(dim=3) / own[:, None, None]

    def factors(self, map_: Tensor, extent: Tensor | None = None) -> list[Tensor]:
        # Heights, widths and samples as one batch: operations cost a GPU more than the numbers do.
        height, width, count = map_.shape[2], map_.shape[3], self.num_frequencies
        cells, owns = _cells(map_, extent, count)
        waves = _cosines(cells, torch.cat([owns.flatten(), cells[count : count + 1]]), count)
        # A sum, as ONNX Runtime for Python 3.10 has no product of transposed float64 matrices.
        products = (waves[:-1, :, None] * waves[-1, :count]).sum(dim=3)
        products = products.view(2, -1, cells.shape[0], count)
        up = (products / count).to(map_.dtype)
        down = (products / owns[:, :, None, None]).transpose(2, 3).to(map_.dtype)
        return [down[0, :, :, :height], up[0, :, :height], down[1, :, :, :width], up[1, :, :width]]


class L1Position(SeparablePosition):
    """``L(i, j) = exp(−‖p_i − p_j‖₁ / scale)`` over the distance of two positions, in cells. Its
    raw rows, which sum to thousands on a large map, would swamp an affinity: normalised ones don't.
    """

    def __init__(self, scale: float = 50.0):
        super().__init__()
        check_positive("l1_scale", scale)
        self.scale = float(scale)

    def kernel(self, cell: Tensor, own: Tensor) -> Tensor:
        return torch.exp(-(cell[:, None] - cell).abs() / self.scale)[None]


# A term by the first part of a block's option ``position``, made of the block's other options.
POSITION_TERMS = {
    "cos": lambda block: CosPosition(block.num_frequencies),
    "l1": lambda block: L1Position(block.l1_scale),
}


def position_term(block: Any, ways: Sequence[str]) -> SeparablePosition | None:
    """The term that ``block.position`` names, with one of the ``ways`` to combine, or "none"."""
    terms = [f"{term}_{way}" for term in POSITION_TERMS for way in ways]
    check_choice("position", block.position, [*terms, "none"])
    return None if block.position == "none" else POSITION_TERMS[block.position.split("_")[0]](block)


def _cells(map_: Tensor, extent: Tensor | None, more: int = 1) -> tuple[Tensor, Tensor]:
    """The numbers 0, 1, … of a map's cells, enough for either direction and ``more``, and how many
    are each image's own along the height and the width, (2, B or 1): in the most exact type."""
    dtype = torch.float32 if map_.device.type == "mps" else torch.float64
    height, width = map_.shape[2], map_.shape[3]
    cells = torch.arange(height + width + more, dtype=dtype, device=map_.device)
    whole = torch.stack([cells[height : height + 1], cells[width : width + 1]])
    return cells, whole if extent is None else torch.minimum(extent.t().to(whole), whole)
