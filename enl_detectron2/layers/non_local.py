"""The non-local block (Wang et al. 2018; Levi & Ullman, BMVC 2019, equations 1 to 4 and 7)."""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .padding import inside
from .position import build_position
from .relation_block import INIT_STD, ProjectedBlock, check_choice


class NonLocalBlock(ProjectedBlock):
    """Relates every position to every other one by an affinity F, N×N for N = H·W positions.

    Row i of F is for output position i::

        softmax:  F[i, j] = exp(θ_iᵀ φ_j) / Σ_k exp(θ_iᵀ φ_k)        (embedded Gaussian, unscaled)
        mean:     F[i, j] = θ_iᵀ φ_j / N

        y = F̃ g,   F̃ = F, F + L or F ⊙ L        z = x + out(y)

    L is a position term, see :mod:`enl_detectron2.layers.position`; F̃ isn't normalised again. F is
    formed only for a mean or a product with L: PyTorch's fused attention needs O(N) memory.

    Args:
        affinity_norm: "softmax" over the positions j, or "mean", a division by N.
        position: how L enters, "none", or a term of ``POSITION_REGISTRY`` with "_add" or "_mul".
        others: as in :class:`~enl_detectron2.layers.ENLBlock`.

    Raises InvalidOption (a ValueError) if an option has another value.
    """

    def __init__(
        self,
        channels: int,
        inner_channels: int | None = None,
        *,
        affinity_norm: str = "softmax",
        position: str = "none",
        position_options: Mapping[str, Any] | None = None,
        init_std: float = INIT_STD,
    ):
        super().__init__(channels, inner_channels, init_std)
        check_choice("affinity_norm", affinity_norm, ("softmax", "mean"))
        self.affinity_norm, self.position = affinity_norm, position
        self.position_term, self.position_options = build_position(
            position, ["add", "mul"], position_options
        )
        self.multiply = position.endswith("_mul")

    def forward(self, x: Tensor, extent: Tensor | None = None) -> Tensor:
        """(B, C, H, W) in, the same out; ``extent`` as in :class:`RelationBlock`."""
        g = self.g(x)
        own = None if extent is None else inside(extent, x)
        y = self._attend(self.theta(x), self.phi(x), g, own, extent)
        if self.position_term is not None and not self.multiply:
            factors = self.position_term.factors(g, extent)
            # Into a copy, as autograd needs what the attention gave.
            y = self.position_term.spread_(self.position_term.pool(g, factors), factors, y.clone())
        z = x + self.out(y)
        return z if own is None else torch.where(own, z, x)

    def _attend(
        self, theta: Tensor, phi: Tensor, g: Tensor, own: Tensor | None, extent: Tensor | None
    ) -> Tensor:
        """F g, or (F ⊙ L) g: (B, D, H, W), without the padding, where the result means nothing."""
        # One attention head, (B, 1, N, D) with D contiguous: only so is PyTorch's attention fused.
        query, key, value = [
            map_.flatten(2).transpose(1, 2).unsqueeze(1).contiguous() for map_ in [theta, phi, g]
        ]
        keys = None if own is None else own.flatten(2).unsqueeze(1)  # (B, 1, 1, N)
        if self.affinity_norm == "softmax" and not self.multiply:
            y = F.scaled_dot_product_attention(query, key, value, attn_mask=keys, scale=1.0)
        else:
            affinity = self._affinity(query, key, keys)
            if self.multiply and self.position_term is not None:  # the latter for TorchScript
                affinity = affinity * self.position_term.matrix(g, extent)
            y = affinity @ value
        return y.transpose(2, 3).reshape(g.shape)

    def _affinity(self, query: Tensor, key: Tensor, keys: Tensor | None) -> Tensor:
        """F, (B, 1, N, N), zero in the columns where ``keys`` is False."""
        affinity = query @ key.transpose(2, 3)
        if self.affinity_norm == "softmax":
            if keys is not None:
                affinity = affinity.masked_fill(~keys, -float("inf"))
            return affinity.softmax(dim=3)
        if keys is None:
            return affinity / affinity.shape[3]
        return affinity.masked_fill(~keys, 0.0) / keys.sum(dim=3, keepdim=True)
