"""The efficient non-local block (Levi & Ullman, BMVC 2019, equations 5, 6 and 9)."""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .padding import inside
from .position import build_position
from .relation_block import INIT_STD, ProjectedBlock, check_choice


class ENLBlock(ProjectedBlock):
    """Relates every position to every other one, at a cost linear in their number.

    With the N = H·W positions of a map as columns::

        y = (θᵀ φ̂ + L) g        z = x + out(y)

    The affinity θᵀ φ̂ + L is N×N, but of low rank: L is ``up down``, a term of
    :mod:`enl_detectron2.layers.position` with K² rows, so the affinity is [θᵀ up] [φ̂; down], with
    D + K² rows between. It mixes positions while g and out project channels, so the order can be
    swapped: the map is first pooled to D + K² *tokens* (209 for C = 256), these are projected
    instead of all N positions, and each position takes a combination of the results. Nothing N×N
    is formed: O(N·C·D) operations, O(N) memory::

        tokens  = [φ̂; down] x         (B, D + K², C)
        carried = out(g(tokens))      (B, D + K², C)
        z       = x + [θᵀ up] carried

    The four projections are called as modules, so hooks, wrappers and replacements work; ``g`` and
    ``out`` must be affine, and see tokens as maps of one row.

    Args:
        channels: C, of the block's input and output.
        inner_channels: D, inside the block. None means ``channels // 2``.
        phi_norm: how φ becomes φ̂. "softmax": over the N positions, for each channel; "mean": φ/N;
            "none": φ̂ = φ (diverges in the paper).
        theta_norm: "none", or "tanh" of θ.
        position: the term added to the affinity, "cos_add", "l1_add", or another of
            ``POSITION_REGISTRY`` with "_add"; "none".
        position_options: arguments of the term's constructor: ``num_frequencies`` of cos, which is
            K (9), ``scale`` of l1, in cells (50). Those of other registered terms are ignored.
        init_std: σ of the Gaussian that the projections' weights start from.

    Raises InvalidOption (a ValueError) if an option has another value.
    """

    def __init__(
        self,
        channels: int,
        inner_channels: int | None = None,
        *,
        phi_norm: str = "softmax",
        theta_norm: str = "none",
        position: str = "cos_add",
        position_options: Mapping[str, Any] | None = None,
        init_std: float = INIT_STD,
    ):
        super().__init__(channels, inner_channels, init_std)
        check_choice("phi_norm", phi_norm, ("softmax", "mean", "none"))
        check_choice("theta_norm", theta_norm, ("none", "tanh"))
        self.phi_norm, self.theta_norm, self.position = phi_norm, theta_norm, position
        # A product of affinity and position would need the N×N matrix.
        self.position_term, self.position_options = build_position(
            position, ["add"], position_options
        )

    def forward(self, x: Tensor, extent: Tensor | None = None) -> Tensor:
        """(B, C, H, W) in, the same out; ``extent`` as in :class:`RelationBlock`."""
        own = None if extent is None else inside(extent, x)
        # Pool
        phi = self.phi_hat(x, own)
        tokens = phi.to(x.dtype) @ x.flatten(2).transpose(1, 2)
        factors: list[Tensor] = []
        if self.position_term is not None:
            factors = self.position_term.factors(x, extent)
            tokens = torch.cat([tokens, self.position_term.pool(x, factors)], dim=1)
        # Project
        count = tokens.shape[1] - self.inner_channels
        carried = self._carry(tokens, phi).split([self.inner_channels, count, 1], dim=1)
        # Spread. The tokens of L keep out's bias, as L keeps constants; those of θ leave it out.
        bias = carried[2]
        z = _add_product(x, carried[0] - bias, self.theta_hat(x, own))
        if self.position_term is not None:
            return self.position_term.spread_(carried[1], factors, z)
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
        if phi.dtype != torch.float64:
            phi = phi.float()
        if self.phi_norm == "softmax":
            # masked_fill of a channels-last map would take 24 times as long as this sum.
            return _softmax_over_positions(phi if own is None else phi + own.to(phi.dtype).log())
        if own is not None:
            phi = phi * own
        if self.phi_norm == "mean":
            whole = torch.ones_like(phi[:, :1]) if own is None else own.to(phi.dtype)
            phi = phi / whole.sum(dim=(2, 3), keepdim=True)
        return phi.flatten(2)

    def _carry(self, tokens: Tensor, phi: Tensor) -> Tensor:
        """Tokens (B, T, C) after g and out, (B, T + 1, C): the last one is out's bias, from an
        additional token of zeros."""
        if self.phi_norm == "softmax":  # φ̂'s rows sum to 1, as L's do: g's bias counts once
            values = _as_rows(self.g(_as_map(tokens)))
        else:  # as often as φ̂'s row sums to
            rows = _as_rows(self.g(_as_map(F.pad(tokens, (0, 0, 0, 1)))))
            values, bias = rows.split([tokens.shape[1], 1], dim=1)
            more = phi.sum(dim=2, keepdim=True).to(tokens.dtype) - 1
            values = values + F.pad(more, (0, 0, 0, values.shape[1] - more.shape[1])) * bias
        return _as_rows(self.out(_as_map(F.pad(values, (0, 0, 0, 1)))))


def _as_map(tokens: Tensor) -> Tensor:
    """Tokens (B, T, C) as the map (B, C, 1, T) that a convolution takes."""
    return tokens.transpose(1, 2).unsqueeze(2)


def _as_rows(map_: Tensor) -> Tensor:
    """(B, C, 1, T) in, (B, T, C) out."""
    return map_.squeeze(2).transpose(1, 2)


def _add_product(x: Tensor, rows: Tensor, map_: Tensor) -> Tensor:
    """A new map with the strides of x: x plus, at each position, the combination of ``rows``
    (B, D, C) with the factors of ``map_`` (B, D, H, W); in its type, under autocast not x's."""
    if x.stride(1) == 1:  # channels-last; without this branch a block takes 1.8 times as long
        last, factor = x.permute(0, 2, 3, 1), map_.permute(0, 2, 3, 1).flatten(1, 2)
        product = torch.bmm(factor, rows).add_(last.flatten(1, 2))
        return product.view_as(last).permute(0, 3, 1, 2)
    return torch.bmm(rows.transpose(1, 2), map_.flatten(2)).add_(x.flatten(2)).view_as(x)


def _softmax_over_positions(map_: Tensor) -> Tensor:
    """(B, D, H, W) in, (B, D, N) out."""
    # PyTorch would copy a channels-last map to walk along its positions, and a block on a CPU would
    # take 1.27 times as long. On a GPU the copy costs almost nothing, and avoiding it 40 times as
    # much.
    if map_.stride(1) == 1 and not map_.is_cuda:
        return map_.permute(0, 2, 3, 1).flatten(1, 2).softmax(dim=1).transpose(1, 2)
    return map_.flatten(2).softmax(dim=2)
