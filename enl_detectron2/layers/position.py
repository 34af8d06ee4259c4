"""Relative position terms: matrices L over pairs of positions, applied in separable form.

A term L is N×N for a map of N = H·W positions, but it is a Kronecker product of one matrix along
the height and one along the width, so that ``L g`` is two small matrix products and L itself is
never formed.
"""

import functools
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .extent import in_graph
from .options import InvalidOption


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
        dtype: of the result; computed in float64 first. Default: torch's default dtype.
        device: of the result.

    Returns:
        (length, count), orthonormal columns (``EᵀE = I``), lowest frequency first.

    Raises:
        ValueError: if ``count`` is not within 1 … length.
    """
    if not 1 <= count <= length:
        raise ValueError(f"count must lie within 1 and length={length}, got {count}")
    return _basis(length, count).to(device=device, dtype=dtype or torch.get_default_dtype())


def _basis(length: int, count: int, extent: Tensor | None = None) -> Tensor:
    """(length, min(count, length)): the basis in float64.

    With ``extent`` (B,) one for each image, (B, length, min(count, length)): the basis over the
    image's own samples, zero in the padding and for frequencies that so few samples don't have.

    No value here becomes a Python number, so that a trace holds for every length. On the CPU, as
    some accelerators have no float64.
    """
    sample = torch.arange(length, dtype=torch.float64, device="cpu")
    phase = torch.outer(sample + 0.5, sample[:count]) * math.pi
    if extent is None:
        return F.normalize(torch.cos(phase / length), dim=0)
    own = extent.to(sample)[:, None, None]
    exists = (sample[:, None] < own) & (sample[:count] < own)
    return F.normalize(torch.cos(phase / own) * exists, dim=1)


@functools.lru_cache(maxsize=128)
def _cached_basis(
    length: int, count: int, extent: int | None, dtype: torch.dtype, device: torch.device
) -> Tensor:
    # A tensor made in inference mode could not be saved for the backward pass of a later training.
    with torch.inference_mode(False):
        if extent is None:
            return dct_basis(length, count, dtype=dtype, device=device)
        return _basis(length, count, torch.tensor([extent]))[0].to(device=device, dtype=dtype)


def l1_kernel(
    length: int,
    scale: float,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """``K[i, j] = exp(−|i − j| / scale)``, the l1 term along one direction.

    Args:
        length: number of cells.
        scale: the distance, in cells, over which the kernel falls by a factor e.
        dtype: of the result; computed in float64 first. Default: torch's default dtype.
        device: of the result.

    Returns:
        (length, length), symmetric, at most 1.
    """
    return _kernel(length, scale).to(device=device, dtype=dtype or torch.get_default_dtype())


def _kernel(length: int, scale: float) -> Tensor:
    """(length, length): the kernel in float64, see :func:`_basis`."""
    cell = torch.arange(length, dtype=torch.float64, device="cpu")
    return torch.exp(-(cell[:, None] - cell[None, :]).abs() / scale)


class CosPosition(nn.Module):
    """``L = Ê Êᵀ``: a low-pass filter over the map's lowest 2-D cosine frequencies.

    ``Ê = E_h ⊗ E_w`` holds the lowest ``num_frequencies``² columns of the orthonormal 2-D DCT-II;
    a map shorter than ``num_frequencies`` in one direction has only its own length's frequencies.

    With an ``extent`` (B, 2), see :mod:`enl_detectron2.layers.extent`, the map is each image's own
    part of it, and ``L g`` is zero in the padding.
    """

    def __init__(self, num_frequencies: int = 9):
        """
        Args:
            num_frequencies: frequencies kept along each direction, at least 1.

        Raises:
            InvalidOption: if ``num_frequencies`` is not a whole number of at least 1.
        """
        super().__init__()
        if not isinstance(num_frequencies, int) or num_frequencies < 1:
            raise InvalidOption("num_frequencies", "a whole number of at least 1", num_frequencies)
        self.num_frequencies = num_frequencies

    def basis(self, length: int, like: Tensor, extent: Tensor | None = None) -> Tensor:
        """(length, min(num_frequencies, length)): E along one direction, as ``like`` is stored.

        With ``extent`` (B,), of that direction, (B, 1, length, min(num_frequencies, length)): each
        image's own E, zero in the padding; or one for all, without the first two dimensions.
        """
        if torch.jit.is_scripting() or in_graph():
            # Part of the graph, so that it follows the size of the graph's input.
            basis = _basis(length, self.num_frequencies, extent).to(like)
            return basis if extent is None else basis[:, None]
        count = min(self.num_frequencies, length)
        if extent is None:
            return _cached_basis(length, count, None, like.dtype, like.device)
        lengths = extent.tolist()
        if len(set(lengths)) == 1:  # as if there were no batch, which is faster to multiply with
            return _cached_basis(length, count, lengths[0], like.dtype, like.device)
        bases = [_cached_basis(length, count, own, like.dtype, like.device) for own in lengths]
        return torch.stack(bases)[:, None]

    def bases(self, g: Tensor, extent: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """:meth:`basis` along the height and along the width of a map (B, D, H, W)."""
        if extent is None:
            return self.basis(g.shape[2], g), self.basis(g.shape[3], g)
        return (
            self.basis(g.shape[2], g, extent[:, 0]),
            self.basis(g.shape[3], g, extent[:, 1]),
        )

    def forward(self, g: Tensor, extent: Tensor | None = None) -> Tensor:
        """``L g = Ê (Êᵀ g)`` for each channel: (B, D, H, W) in, the same out."""
        bases = self.bases(g, extent)
        basis_h, basis_w = bases
        return basis_h @ (self.analyze(g, bases) @ basis_w.transpose(-2, -1))

    def analyze(self, g: Tensor, bases: tuple[Tensor, Tensor]) -> Tensor:
        """``Êᵀ g``: the coefficients (B, D, K_h, K_w) of a map (B, D, H, W), the constant first.

        ``bases`` are those of :meth:`bases`.
        """
        basis_h, basis_w = bases
        # The height first: that product reads the map as it lies in memory, in long rows.
        return (basis_h.transpose(-2, -1) @ g) @ basis_w

    def synthesize(
        self, coefficients: Tensor, bases: tuple[Tensor, Tensor], *, onto: Tensor
    ) -> Tensor:
        """``onto + Ê c``: a map (B, D, H, W) plus the one that has the given coefficients."""
        basis_h, basis_w = bases
        columns = coefficients @ basis_w.transpose(-2, -1)
        basis_h = basis_h.expand(columns.shape[0], columns.shape[1], -1, -1)
        # One product for each channel, which adds to what is there as it writes.
        return torch.baddbmm(
            onto.flatten(0, 1), basis_h.flatten(0, 1), columns.flatten(0, 1)
        ).view_as(onto)

    def matrix(self, g: Tensor, extent: Tensor | None = None) -> Tensor:
        """(N, N): L itself, for the positions of ``g`` in the order of ``flatten``.

        With ``extent`` (B, 1, N, N), zero in the rows and columns of padding.
        """
        basis_h, basis_w = self.bases(g, extent)
        return _kron(basis_h @ basis_h.transpose(-2, -1), basis_w @ basis_w.transpose(-2, -1))

    def extra_repr(self) -> str:
        return f"num_frequencies={self.num_frequencies}"


class L1Position(nn.Module):
    """``L(i, j) = exp(−‖p_i − p_j‖₁ / scale)`` over the distance of two positions, in cells.

    The exponent splits into height and width, so ``L = K_h ⊗ K_w``. What is added to an affinity
    has each of its rows divided by the row's sum, which splits likewise: a row of the affinity sums
    to 1, and the raw rows, which sum to thousands on a large map, would swamp it.

    With an ``extent`` (B, 2), see :mod:`enl_detectron2.layers.extent`, L is zero in the rows and
    columns of padding.
    """

    def __init__(self, scale: float = 50.0):
        """
        Args:
            scale: in cells of the feature map, above 0.

        Raises:
            InvalidOption: if ``scale`` is not above 0.
        """
        super().__init__()
        if not scale > 0:
            raise InvalidOption("l1_scale", "a number above 0", scale)
        self.scale = float(scale)

    def kernel(self, length: int, like: Tensor, extent: Tensor | None = None) -> Tensor:
        """(length, length): K along one direction, as ``like`` is stored.

        With ``extent`` (B,), of that direction, (B, 1, length, length).
        """
        kernel = _kernel(length, self.scale).to(like)
        if extent is None:
            return kernel
        own = torch.arange(length, device=like.device) < extent.to(like.device)[:, None]
        return (kernel * own[:, :, None] * own[:, None, :])[:, None]

    def kernels(self, g: Tensor, extent: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """:meth:`kernel` along the height and along the width of a map (B, D, H, W)."""
        if extent is None:
            return self.kernel(g.shape[2], g), self.kernel(g.shape[3], g)
        return (
            self.kernel(g.shape[2], g, extent[:, 0]),
            self.kernel(g.shape[3], g, extent[:, 1]),
        )

    def forward(self, g: Tensor, extent: Tensor | None = None) -> Tensor:
        """``L g = K_h g K_wᵀ`` with normalised rows, for each channel: (B, D, H, W) in and out."""
        kernel_h, kernel_w = self.kernels(g, extent)
        # The rows of padding are zero, and stay so.
        kernel_h = F.normalize(kernel_h, p=1.0, dim=-1)
        kernel_w = F.normalize(kernel_w, p=1.0, dim=-1)
        return kernel_h @ g @ kernel_w.transpose(-2, -1)

    def matrix(self, g: Tensor, extent: Tensor | None = None) -> Tensor:
        """(N, N): L itself, at most 1, for the positions of ``g`` in the order of ``flatten``.

        With ``extent`` (B, 1, N, N).
        """
        kernel_h, kernel_w = self.kernels(g, extent)
        return _kron(kernel_h, kernel_w)

    def extra_repr(self) -> str:
        return f"scale={self.scale}"


def _kron(a: Tensor, b: Tensor) -> Tensor:
    """The Kronecker product of the last two dimensions, for each index of those before."""
    product = a[..., :, None, :, None] * b[..., None, :, None, :]
    return product.flatten(-4, -3).flatten(-2, -1)


def position_term(kind: str, num_frequencies: int, l1_scale: float) -> nn.Module:
    """The term named ``kind``, "cos" or "l1", with the one of the two options that it reads."""
    return {"cos": lambda: CosPosition(num_frequencies), "l1": lambda: L1Position(l1_scale)}[kind]()
