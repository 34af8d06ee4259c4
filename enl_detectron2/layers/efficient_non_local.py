"""The efficient non-local block (Levi & Ullman, BMVC 2019, equations 5, 6 and 9)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from .padding import inside
from .position import position_choices, position_term
from .relation_block import INIT_STD, ProjectedBlock, check_choice


class ENLBlock(ProjectedBlock):
    """Every position looks at every other one, at a cost linear in their number.

    With the N = H·W positions of a map as columns::

        y = θᵀ (φ̂ gᵀ) + L g        z = x + out(y)

    ``φ̂ gᵀ`` is D×D, so the N×N affinity ``F = θᵀ φ̂`` is never formed: O(N·C·D) operations and
    O(N) memory. ``L = L_h ⊗ L_w`` is the position term of :mod:`enl_detectron2.layers.position`,
    ``L = up down``.

    It is computed in the order in which it can be read: the map is summarised by D + K² *tokens*
    of C channels, each token passes through g and out, and each position takes its combination::

        tokens  = [x φ̂ᵀ | down x]                        (B, C, D + K²)
        carried = out(g(tokens)) − out's bias             (B, C, D + K²)
        z       = x + carried[: D] θ + up carried[D :] + out's bias

    The four projections are called as modules, so whatever is hooked, wrapped or put in place of
    one has its effect; ``g`` and ``out`` must be affine, and see tokens as maps of one row.

    Args:
        channels: C, of the block's input and output.
        inner_channels: D, inside the block. None means ``channels // 2``.
        phi_norm: how φ becomes φ̂. "softmax": over the N positions, for each channel; "mean": φ/N;
            "none": φ̂ = φ (diverges in the paper).
        theta_norm: "none", or "tanh" of θ.
        position: the term added to the affinity, "cos_add", "l1_add" or "none".
        num_frequencies: K of the cosine term, along each direction.
        l1_scale: of the l1 term, in cells of the map.
        init_std: σ of the Gaussian that the projections' weights start from.

    Raises:
        InvalidOption: (a ValueError) if an option has none of these values.
    """

    def __init__(
        self,
        channels: int,
        inner_channels: int | None = None,
        *,
        phi_norm: str = "softmax",
        theta_norm: str = "none",
        position: str = "cos_add",
        num_frequencies: int = 9,
        l1_scale: float = 50.0,
        init_std: float = INIT_STD,
    ):
        super().__init__(channels, inner_channels, init_std)
        check_choice("phi_norm", phi_norm, ("softmax", "mean", "none"))
        check_choice("theta_norm", theta_norm, ("none", "tanh"))
        # A product of affinity and position needs the N×N matrix that this block never forms.
        check_choice("position", position, position_choices("add"))
        self.phi_norm, self.theta_norm, self.position = phi_norm, theta_norm, position
        self.num_frequencies, self.l1_scale = num_frequencies, l1_scale
        self.position_term = position_term(
            position, num_frequencies=num_frequencies, l1_scale=l1_scale
        )

    def forward(self, x: Tensor, extent: Tensor | None = None) -> Tensor:
        """(B, C, H, W) in, the same out; ``extent`` as in :class:`RelationBlock`."""
        own = None if extent is None else inside(extent, x)
        factors: list[Tensor] = []
        if self.position_term is not None:
            factors = self.position_term.factors(x, extent)
        by_affinity, by_position, bias = self._carried(x, own, factors)
        z = _add_product(x, by_affinity, self.theta_hat(x, own))
        # L keeps constants and is zero in the padding, and so out's bias goes with its tokens.
        if self.position_term is not None:
            return self.position_term.spread_(by_position, factors, z)
        return z.add_(bias[..., None] if own is None else bias[..., None] * own)

    def theta_hat(self, x: Tensor, own: Tensor | None = None) -> Tensor:
        """θ as it enters the affinity, (B, D, H, W); 0 in the padding, see :meth:`phi_hat`."""
        theta = self.theta(x)
        if own is not None:
            theta = theta * own
        return theta.tanh() if self.theta_norm == "tanh" else theta

    def phi_hat(self, x: Tensor, own: Tensor | None = None) -> Tensor:
        """φ̂, (B, D, N), in float32 at least: what it holds is summed over the positions.

        Args:
            x: (B, C, H, W).
            own: (B, 1, H, W), bool, False in the padding, where φ̂ is 0.
        """
        phi = self.phi(x)
        phi = phi.to(torch.promote_types(phi.dtype, torch.float32))
        if self.phi_norm == "softmax":
            if own is not None:
                phi = phi + own.to(phi.dtype).log()  # −∞ in the padding
            return _softmax_over_positions(phi)
        if own is not None:
            phi = phi * own
        if self.phi_norm == "mean":
            if own is None:
                phi = phi / (x.shape[2] * x.shape[3])
            else:
                phi = phi / own.to(phi.dtype).sum(dim=(2, 3), keepdim=True)
        return phi.flatten(2)

    def _carried(
        self, x: Tensor, own: Tensor | None, factors: list[Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """What the affinity's tokens carry through g and out without out's bias (B, C, D), the
        position term's with it (B, C, K²), and that bias (B, C, 1)."""
        phi = self.phi_hat(x, own)
        tokens = (phi.to(x.dtype) @ x.flatten(2).transpose(1, 2)).transpose(1, 2)
        width = tokens.shape[2]
        if self.position_term is not None:
            tokens = torch.cat([tokens, self.position_term.pool(x, factors)], dim=2)
        values, bias = _values_and_bias(self.g(_as_map(tokens)))
        if self.phi_norm != "softmax":  # whose φ̂ sum to 1: g's bias counts Σφ̂ times
            more = phi.sum(dim=2)[:, None].to(x.dtype) - 1
            values = values + F.pad(more, (0, tokens.shape[2] - width)) * bias
        carried, bias = _values_and_bias(self.out(_as_map(values)))
        return carried[:, :, :width] - bias, carried[:, :, width:], bias


def _as_map(tokens: Tensor) -> Tensor:
    """Tokens (B, C, T), and one of zeros, as the map (B, C, 1, T + 1) that a convolution takes."""
    return F.pad(tokens, (0, 1))[:, :, None]


def _values_and_bias(map_: Tensor) -> tuple[Tensor, Tensor]:
    """An affine layer's values for the tokens (B, C, T), and for zeros: its bias (B, C, 1)."""
    return map_[:, :, 0, :-1], map_[:, :, 0, -1:]


def _add_product(x: Tensor, matrix: Tensor, map_: Tensor) -> Tensor:
    """``x +`` a matrix (B, C, D) times each position of a map (B, D, H, W): a new map.

    In the map's type, which under autocast is not x's. Positions are taken as they lie in memory,
    so that one image has the strides of its format, too.
    """
    if x.stride(1) == 1:
        rows, factor = x.permute(0, 2, 3, 1), map_.permute(0, 2, 3, 1).flatten(1, 2)
        product = torch.bmm(factor, matrix.transpose(1, 2)).add_(rows.flatten(1, 2))
        return product.view_as(rows).permute(0, 3, 1, 2)
    return torch.bmm(matrix, map_.flatten(2)).add_(x.flatten(2)).view_as(x)


def _softmax_over_positions(map_: Tensor) -> Tensor:
    """(B, D, H, W) in, (B, D, N) out.

    On the CPU as the map lies in memory: PyTorch would copy a channels-last map to walk along its
    positions. On a GPU that copy costs next to nothing, and not to make it 40 times as much.
    """
    if map_.stride(1) == 1 and not map_.is_cuda:
        return map_.permute(0, 2, 3, 1).flatten(1, 2).softmax(dim=1).transpose(1, 2)
    return map_.flatten(2).softmax(dim=2)
