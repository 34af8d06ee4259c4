"""The efficient non-local block (Levi & Ullman, BMVC 2019, equations 5, 6 and 9)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from .padding import inside
from .position import position_term
from .relation_block import INIT_STD, ProjectedBlock, check_choice


class ENLBlock(ProjectedBlock):
    """Every position looks at every other one, at a cost linear in their number.

    With the N = H·W positions of a map as columns::

        y = θᵀ (φ̂ gᵀ) + L g        z = x + out(y)

    ``φ̂ gᵀ`` is D×D, so the N×N affinity ``F = θᵀ φ̂`` is never formed: O(N·C·D) operations and
    O(N) memory. ``L = up down`` is a term of :mod:`enl_detectron2.layers.position`. In the order
    in which it is computed, the map is summarised by D + K² *tokens*, rows of C channels, each
    token passes through g and out, and each position takes its combination::

        tokens  = [φ̂ xᵀ; down xᵀ]                                  (B, D + K², C)
        carried = out(g(tokens))                                   (B, D + K², C)
        z       = x + (carried[: D] − bias)ᵀ θ + (up carried[D :])ᵀ,  with the bias of out

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

    Raises InvalidOption (a ValueError) if an option has none of these values.
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
        self.phi_norm, self.theta_norm, self.position = phi_norm, theta_norm, position
        self.num_frequencies, self.l1_scale = num_frequencies, l1_scale
        # A product of affinity and position needs the N×N matrix that this block never forms.
        self.position_term = position_term(self, ["add"])

    def forward(self, x: Tensor, extent: Tensor | None = None) -> Tensor:
        """(B, C, H, W) in, the same out; ``extent`` as in :class:`RelationBlock`."""
        own = None if extent is None else inside(extent, x)
        factors: list[Tensor] = []
        if self.position_term is not None:
            factors = self.position_term.factors(x, extent)
        carried, bias = self._carry(x, own, factors)
        count = self.inner_channels
        z = _add_product(x, carried[:, :count] - bias, self.theta_hat(x, own))
        # L keeps constants and is zero in the padding, and so out's bias goes with its tokens.
        if self.position_term is not None:
            return self.position_term.spread_(carried[:, count:], factors, z)
        bias = bias.transpose(1, 2)[..., None]
        return z.add_(bias if own is None else bias * own)

    def theta_hat(self, x: Tensor, own: Tensor | None = None) -> Tensor:
        """θ as it enters the affinity, (B, D, H, W); 0 in the padding, as :meth:`phi_hat`."""
        theta = self.theta(x)
        if own is not None:
            theta = theta * own
        return theta.tanh() if self.theta_norm == "tanh" else theta

    def phi_hat(self, x: Tensor, own: Tensor | None = None) -> Tensor:
        """φ̂, (B, D, N), in float32 at least, as it is summed over the positions; 0 in the padding,
        where ``own`` (B, 1, H, W) is False."""
        phi = self.phi(x)
        phi = phi.to(torch.promote_types(phi.dtype, torch.float32))
        if self.phi_norm == "softmax":
            return _softmax_over_positions(phi if own is None else phi + own.to(phi.dtype).log())
        if own is not None:
            phi = phi * own
        if self.phi_norm == "mean":
            whole = torch.ones_like(phi[:, :1]) if own is None else own.to(phi.dtype)
            phi = phi / whole.sum(dim=(2, 3), keepdim=True)
        return phi.flatten(2)

    def _carry(self, x: Tensor, own: Tensor | None, factors: list[Tensor]) -> tuple[Tensor, Tensor]:
        """What the tokens carry through g and out (B, D + K², C), and out's bias (B, 1, C)."""
        phi = self.phi_hat(x, own)
        tokens = phi.to(x.dtype) @ x.flatten(2).transpose(1, 2)
        if self.position_term is not None:
            tokens = torch.cat([tokens, self.position_term.pool(x, factors)], dim=1)
        values, bias = _values_and_bias(self.g(_as_map(tokens)))
        if self.phi_norm != "softmax":  # whose φ̂ sum to 1: g's bias counts Σφ̂ times
            more = phi.sum(dim=2, keepdim=True).to(x.dtype) - 1
            values = values + F.pad(more, (0, 0, 0, values.shape[1] - more.shape[1])) * bias
        return _values_and_bias(self.out(_as_map(values)))


def _as_map(tokens: Tensor) -> Tensor:
    """Tokens (B, T, C), and one of zeros, as the map (B, C, 1, T + 1) that a convolution takes."""
    return F.pad(tokens, (0, 0, 0, 1)).transpose(1, 2)[:, :, None]


def _values_and_bias(map_: Tensor) -> tuple[Tensor, Tensor]:
    """An affine layer's values for the tokens (B, T, C), and for zeros: its bias (B, 1, C)."""
    rows = map_[:, :, 0].transpose(1, 2)
    return rows[:, :-1], rows[:, -1:]


def _add_product(x: Tensor, rows: Tensor, map_: Tensor) -> Tensor:
    """A new map with the strides of x: x, and at each position of a map (B, D, H, W) the
    combination of D rows of C that it says; in the map's type, under autocast not x's."""
    if x.stride(1) == 1:
        last, factor = x.permute(0, 2, 3, 1), map_.permute(0, 2, 3, 1).flatten(1, 2)
        product = torch.bmm(factor, rows).add_(last.flatten(1, 2))
        return product.view_as(last).permute(0, 3, 1, 2)
    return torch.bmm(rows.transpose(1, 2), map_.flatten(2)).add_(x.flatten(2)).view_as(x)


def _softmax_over_positions(map_: Tensor) -> Tensor:
    """(B, D, H, W) in, (B, D, N) out."""
    # PyTorch would copy a channels-last map to walk along its positions. On a GPU that copy costs
    # next to nothing, and not to make it 40 times as much.
    if map_.stride(1) == 1 and not map_.is_cuda:
        return map_.permute(0, 2, 3, 1).flatten(1, 2).softmax(dim=1).transpose(1, 2)
    return map_.flatten(2).softmax(dim=2)
