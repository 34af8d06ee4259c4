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


def _basis(length: int, count: int) -> Tensor:
    """(length, min(count, length)): the basis in float64.

    No value here becomes a Python number, so that a trace holds for every length. On the CPU, as
    some accelerators have no float64.
    """
    sample = torch.arange(length, dtype=torch.float64, device="cpu")
    basis = torch.cos(torch.outer(sample + 0.5, sample[:count]) * math.pi / length)
    return F.normalize(basis, dim=0)


@functools.lru_cache(maxsize=128)
def _cached_basis(length: int, count: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    # A tensor made in inference mode could not be saved for the backward pass of a later training.
    with torch.inference_mode(False):
        return dct_basis(length, count, dtype=dtype, device=device)


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

    def basis(self, length: int, like: Tensor) -> Tensor:
        """(length, min(num_frequencies, length)): E along one direction, as ``like`` is stored."""
        if torch.jit.is_scripting() or torch.jit.is_tracing() or torch.compiler.is_compiling():
            # Part of the graph, so that it follows the size of the graph's input.
            return _basis(length, self.num_frequencies).to(like)
        count = min(self.num_frequencies, length)
        return _cached_basis(length, count, like.dtype, like.device)

    def forward(self, g: Tensor) -> Tensor:
        """``L g = Ê (Êᵀ g)`` for each channel: (B, D, H, W) in, the same out."""
        return self.basis(g.shape[2], g) @ (self.analyze(g) @ self.basis(g.shape[3], g).T)

    def analyze(self, g: Tensor) -> Tensor:
        """``Êᵀ g``: the coefficients (B, D, K_h, K_w) of a map (B, D, H, W), the constant first."""
        # The height first: that product reads the map as it lies in memory, in long rows.
        return (self.basis(g.shape[2], g).T @ g) @ self.basis(g.shape[3], g)

    def synthesize(self, coefficients: Tensor, *, onto: Tensor) -> Tensor:
        """``onto + Ê c``: a map (B, D, H, W) plus the one that has the given coefficients."""
        basis_h, basis_w = self.basis(onto.shape[2], onto), self.basis(onto.shape[3], onto)
        columns = (coefficients @ basis_w.T).flatten(0, 1)
        # One product for each channel, which adds to what is there as it writes.
        return torch.baddbmm(
            onto.flatten(0, 1), basis_h.expand(columns.shape[0], -1, -1), columns
        ).view_as(onto)

    def matrix(self, g: Tensor) -> Tensor:
        """(N, N): L itself, for the positions of ``g`` in the order of ``flatten``."""
        basis_h, basis_w = self.basis(g.shape[2], g), self.basis(g.shape[3], g)
        return torch.kron(basis_h @ basis_h.T, basis_w @ basis_w.T)

    def extra_repr(self) -> str:
        return f"num_frequencies={self.num_frequencies}"


class L1Position(nn.Module):
    """``L(i, j) = exp(−‖p_i − p_j‖₁ / scale)`` over the distance of two positions, in cells.

    The exponent splits into height and width, so ``L = K_h ⊗ K_w``. What is added to an affinity
    has each of its rows divided by the row's sum, which splits likewise: a row of the affinity sums
    to 1, and the raw rows, which sum to thousands on a large map, would swamp it.
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

    def kernel(self, length: int, like: Tensor) -> Tensor:
        """(length, length): K along one direction, as ``like`` is stored."""
        return _kernel(length, self.scale).to(like)

    def forward(self, g: Tensor) -> Tensor:
        """``L g = K_h g K_wᵀ`` with normalised rows, for each channel: (B, D, H, W) in and out."""
        kernel_h, kernel_w = self.kernel(g.shape[2], g), self.kernel(g.shape[3], g)
        kernel_h = kernel_h / kernel_h.sum(dim=1, keepdim=True)
        kernel_w = kernel_w / kernel_w.sum(dim=1, keepdim=True)
        return kernel_h @ g @ kernel_w.T

    def matrix(self, g: Tensor) -> Tensor:
        """(N, N): L itself, at most 1, for the positions of ``g`` in the order of ``flatten``."""
        return torch.kron(self.kernel(g.shape[2], g), self.kernel(g.shape[3], g))

    def extra_repr(self) -> str:
        return f"scale={self.scale}"


def position_term(kind: str, num_frequencies: int, l1_scale: float) -> nn.Module:
    """The term named ``kind``, "cos" or "l1", with the one of the two options that it reads."""
    return {"cos": lambda: CosPosition(num_frequencies), "l1": lambda: L1Position(l1_scale)}[kind]()
