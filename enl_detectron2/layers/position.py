"""Relative position: matrices L over pairs of positions, applied in separable form.

L is N×N for a map of N = H·W positions, but it is a Kronecker product, ``L = L_h ⊗ L_w``, of one
matrix along the height and one along the width. So ``L g`` is a few small matrix products, and L
itself is never formed where it is added to an affinity.

To add a term: derive from :class:`SeparablePosition`, name the class in :data:`POSITION_TERMS`,
and give its options to the blocks' signatures.
"""

import math

import torch
from torch import Tensor, nn

from .relation_block import check_count, check_number


def dct_basis(
    length: int,
    count: int,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """The ``count`` lowest frequencies of the orthonormal DCT-II over ``length`` samples.

    ``E[n, k] = s_k cos(π (n + ½) k / length)`` with ``s_0 = √(1/length)``, ``s_k = √(2/length)``.

    Args:
        length: number of samples.
        count: number of frequencies, 1 ≤ count ≤ length.
        dtype: of the result, which is computed in float64. Default: torch's default dtype.
        device: of the result.

    Returns:
        (length, count), orthonormal columns (``EᵀE = I``), lowest frequency first.

    Raises:
        ValueError: if ``count`` is not within 1 … length.
    """
    if not 1 <= count <= length:
        raise ValueError(f"count must lie within 1 and length={length}, got {count}")
    cell = torch.arange(length, dtype=torch.float64)
    basis = _cosines(cell, cell[-1:] + 1, count)[0] / math.sqrt(length)
    return basis.to(device=device, dtype=dtype or torch.get_default_dtype())


def _cosines(cell: Tensor, own: Tensor, count: int) -> Tensor:
    """(B, length, count): √length times :func:`dct_basis` over each image's ``own`` (B,) cells.

    Beyond them it is zero, and so are the frequencies that so few cells don't have.
    """
    frequency = torch.arange(count, dtype=cell.dtype, device=cell.device)
    own = own[:, None, None]
    position = cell[:, None]
    # The cosine as a sine, which ONNX Runtime has in float64 for Python 3.10, too.
    wave = torch.sin((position + 0.5) * (frequency * math.pi) / own + math.pi / 2)
    scale = torch.sqrt(frequency.clamp(max=1) + 1)
    return wave * scale * ((position < own) & (frequency < own))


class SeparablePosition(nn.Module):
    """``L = L_h ⊗ L_w``: a matrix over pairs of positions that splits into height and width.

    A subclass gives the matrix along one direction, :meth:`kernel`. From it follow the term that
    is added to an affinity, with rows that sum to 1 as a softmax's do, and the matrix that
    multiplies one.
    """

    def kernel(self, cell: Tensor, own: Tensor) -> Tensor:
        """The matrix along one direction, (B or 1, length, length), whatever in the padding.

        Args:
            cell: (length,), the numbers 0, 1, … of the cells, floating point.
            own: (B or 1,), how many of them are each image's own.
        """
        raise NotImplementedError

    def own_kernel(self, cell: Tensor, own: Tensor, normalized: bool) -> Tensor:
        """:meth:`kernel`, zero in the padding; with ``normalized`` its rows sum to 1 elsewhere."""
        is_own = cell < own[:, None]
        kernel = self.kernel(cell, own) * is_own[:, :, None] * is_own[:, None, :]
        if normalized:
            sums = kernel.sum(dim=2, keepdim=True)
            kernel = kernel / torch.where(sums == 0, 1.0, sums)
        return kernel

    def factors(self, map_: Tensor, extent: Tensor | None = None) -> list[Tensor]:
        """down_h, up_h, down_w, up_w for the size, type and device of a map (B, C, H, W).

        ``up @ down`` is the kernel along one direction, its rows normalised, zero in the padding:
        ``down`` (B or 1, T, length) makes T tokens of a line of cells, ``up`` (B or 1, length, T)
        spreads them. A term of low rank can give smaller factors than these, T = length.
        """
        factors: list[Tensor] = []
        for direction in range(2):
            cell, own = _line(map_, direction, extent)
            up = (cell[:, None] == cell) & (cell < own[:, None])[:, :, None]
            factors += [self.own_kernel(cell, own, True).to(map_.dtype), up.to(map_.dtype)]
        return factors

    # Without a copy: of a channels-last map (H, W·C) is one matrix in memory, of a contiguous one
    # (H, W) is, once for each channel. A product's left factor is expanded, as matmul would do, so
    # that fvcore counts all of it.

    def pool(self, x: Tensor, factors: list[Tensor]) -> Tensor:
        """The tokens of a map: (B, C, H, W) in, (B, C, T_h·T_w) out."""
        batch, channels, _, width = x.shape
        down_h, down_w = factors[0], factors[2]
        if x.stride(1) == 1:
            rows = x.permute(0, 2, 3, 1).flatten(2)
            lines = (down_h.expand(batch, -1, -1) @ rows).view(batch, -1, width, channels)
            down_w = down_w[:, None].expand(batch, lines.shape[1], -1, -1)
            return (down_w @ lines).flatten(1, 2).transpose(1, 2)
        down_h = down_h[:, None].expand(batch, channels, -1, -1)
        return (down_h @ x @ down_w.transpose(1, 2)[:, None]).flatten(2)

    def spread_(self, tokens: Tensor, factors: list[Tensor], z: Tensor) -> Tensor:
        """``z + up tokens`` in the memory of the map z (B, C, H, W): with the tokens of x,
        ``z + L x``. Autograd must not need z itself."""
        batch, channels, height, width = z.shape
        up_h, up_w = factors[1].to(z.dtype), factors[3].to(z.dtype)
        tokens = tokens.reshape(batch, channels, up_h.shape[2], up_w.shape[2])
        if z.stride(1) == 1:
            up_w = up_w[:, None].expand(batch, tokens.shape[2], -1, -1)
            lines = up_w @ tokens.permute(0, 2, 3, 1)
            rows = z.permute(0, 2, 3, 1).flatten(2)
            rows = rows.baddbmm_(up_h.expand(batch, -1, -1), lines.flatten(2))
            return rows.view(batch, height, width, channels).permute(0, 3, 1, 2)
        lines = tokens @ up_w.transpose(1, 2)[:, None]
        up_h = up_h[:, None].expand(batch, channels, -1, -1).flatten(0, 1)
        return z.flatten(0, 1).baddbmm_(up_h, lines.flatten(0, 1)).view_as(z)

    def kernels(
        self, map_: Tensor, extent: Tensor | None = None, normalized: bool = False
    ) -> tuple[Tensor, Tensor]:
        """L_h (B or 1, H, H) and L_w (B or 1, W, W); ``normalized`` as where L is added."""
        return (
            self.own_kernel(*_line(map_, 0, extent), normalized),
            self.own_kernel(*_line(map_, 1, extent), normalized),
        )

    def matrix(self, map_: Tensor, extent: Tensor | None = None) -> Tensor:
        """L itself, not normalised: (B or 1, 1, N, N), positions in the order of ``flatten``."""
        kernel_h, kernel_w = self.kernels(map_, extent)
        product = kernel_h[:, :, None, :, None] * kernel_w[:, None, :, None, :]
        return product.flatten(3, 4).flatten(1, 2)[:, None].to(map_.dtype)


class CosPosition(SeparablePosition):
    """``L = Ê Êᵀ``: a low-pass filter over the map's lowest 2-D cosine frequencies.

    ``Ê = E_h ⊗ E_w`` holds the lowest ``num_frequencies``² columns of the orthonormal 2-D DCT-II;
    a map shorter than K = ``num_frequencies`` in one direction has its own length's frequencies
    only. Along one direction ``E Eᵀ = up down`` shrinks the line to K samples by its lowest
    cosines and interpolates back by the same cosines, with S = dct_basis(K, K)::

        down = S Eᵀ √(K/length)        up = E Sᵀ √(length/K)

    The roots make both keep constants.
    """

    def __init__(self, num_frequencies: int = 9):
        super().__init__()
        check_count("num_frequencies", num_frequencies)
        self.num_frequencies = num_frequencies

    def kernel(self, cell: Tensor, own: Tensor) -> Tensor:
        waves = _cosines(cell, own, self.num_frequencies)
        return (waves[:, :, None] * waves[:, None]).sum(dim=3) / own[:, None, None]

    def factors(self, map_: Tensor, extent: Tensor | None = None) -> list[Tensor]:
        # The cosines of heights, widths and samples as one batch: a GPU is asked for a third of the
        # operations, which cost it more than the numbers do.
        height, width, count = map_.shape[2], map_.shape[3], self.num_frequencies
        cell = _cells(height + width + count, map_)  # as long as the longest, whichever that is
        own_h, own_w = _own(cell, height, 0, extent), _own(cell, width, 1, extent)
        own = torch.cat([own_h, own_w, cell[count : count + 1]])
        waves = _cosines(cell, own, count)
        # A sum, as ONNX Runtime for Python 3.10 has no product of transposed float64 matrices.
        products = (waves[:-1, :, None] * waves[-1, :count]).sum(dim=3)
        up = (products / count).to(map_.dtype)
        down = (products / own[:-1, None, None]).transpose(1, 2).to(map_.dtype)
        images = own_h.shape[0]
        return [
            down[:images, :, :height],
            up[:images, :height],
            down[images:, :, :width],
            up[images:, :width],
        ]

    def extra_repr(self) -> str:
        return f"num_frequencies={self.num_frequencies}"


class L1Position(SeparablePosition):
    """``L(i, j) = exp(−‖p_i − p_j‖₁ / scale)`` over the distance of two positions, in cells.

    The exponent splits into height and width. What is added to an affinity has each row divided by
    its sum: the raw rows, which sum to thousands on a large map, would swamp the affinity.
    """

    def __init__(self, scale: float = 50.0):
        super().__init__()
        check_number("l1_scale", scale)
        self.scale = float(scale)

    def kernel(self, cell: Tensor, own: Tensor) -> Tensor:
        return torch.exp(-(cell[:, None] - cell).abs() / self.scale)[None]

    def extra_repr(self) -> str:
        return f"scale={self.scale}"


# A term by the first part of a block's option ``position``, made of the blocks' options.
POSITION_TERMS = {
    "cos": lambda options: CosPosition(options["num_frequencies"]),
    "l1": lambda options: L1Position(options["l1_scale"]),
}


def position_choices(*ways: str) -> list[str]:
    """What the option ``position`` may be for a block that combines in these ways, "add", "mul"."""
    return [*(f"{term}_{way}" for term in POSITION_TERMS for way in ways), "none"]


def position_term(position: str, **options: float) -> SeparablePosition | None:
    """The term of "cos_add", "l1_mul" … or None of "none"; it takes of all options its own."""
    return None if position == "none" else POSITION_TERMS[position.split("_")[0]](options)


def _line(map_: Tensor, direction: int, extent: Tensor | None) -> tuple[Tensor, Tensor]:
    """The cells of a map along its height (0) or width (1), and how many are the images' own."""
    length = map_.shape[2 + direction]
    cell = _cells(length + 1, map_)
    return cell[:length], _own(cell, length, direction, extent)


def _cells(count: int, map_: Tensor) -> Tensor:
    """0, 1, … on the device of a map, in the most exact type there."""
    dtype = torch.float32 if map_.device.type == "mps" else torch.float64
    return torch.arange(count, dtype=dtype, device=map_.device)


def _own(cell: Tensor, length: int, direction: int, extent: Tensor | None) -> Tensor:
    """(B or 1,): how many of ``length`` cells are each image's own; ``cell`` counts on to it."""
    own = cell[length : length + 1]
    return own if extent is None else torch.minimum(extent[:, direction].to(own), own)
