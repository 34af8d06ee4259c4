"""What a position of a feature map looks at: one row of a relation block's F̃, in O(N).

A block sums over all N positions of its map, ``y_i = Σ_j F̃[i, j] g_j``. Row i of F̃, laid out as
the map, says where the answer of position i comes from, and it takes no N×N matrix: θ̂ of
position i times φ̂ of all positions, and one row of the position term, which is an outer product.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from enl_detectron2.layers import ENLBlock, NonLocalBlock
from enl_detectron2.layers.relation_block import ProjectedBlock
from enl_detectron2.modeling import relation_blocks
from enl_detectron2.utils.errors import UserError


@dataclass(frozen=True)
class Row:
    """One row of F̃ as maps (H, W); ``total`` is what the block sums with.

    ``appearance`` is the row of F, ``position`` that of L, None if the block has no such term.
    """

    appearance: Tensor
    position: Tensor | None
    total: Tensor
    multiplied: bool  # whether total is their product, not their sum

    @property
    def appearance_share(self) -> float | None:
        """Σ|F| / (Σ|F| + Σ|L|) over the row; None unless total is a sum of the two."""
        if self.position is None or self.multiplied:
            return None
        appearance = self.appearance.abs().sum()
        return (appearance / (appearance + self.position.abs().sum())).item()


@dataclass(frozen=True)
class Attention:
    """A block's θ̂ and φ̂ of one image and its position term, and how F̃ follows from them.

    ``F[i, j] = θ̂_iᵀ φ̂_j``, or its softmax over j if ``softmax``; ``F̃ = F + L``, or F ⊙ L if
    ``multiply``, where ``L = L_h ⊗ L_w``.
    """

    theta: Tensor  # (D, H, W), as it enters F
    phi: Tensor  # (D, H, W), likewise
    kernels: tuple[Tensor, Tensor] | None  # L_h (H, H) and L_w (W, W); None without a term
    softmax: bool
    multiply: bool
    stride: int  # pixels of the network's input to a cell of the map
    image_size: tuple[int, int]  # (height, width) of the network's input, without its padding

    @property
    def signed(self) -> dict[str, bool]:
        """Whether a row's "appearance", "position" and "total" may go below zero, in any row."""
        appearance = not self.softmax
        position = self.kernels is not None and has_signs(self.kernels)
        return {
            "appearance": appearance,
            "position": position,
            "total": appearance or position,
        }

    @property
    def map_size(self) -> tuple[int, int]:
        """(H, W), padding included if the block looks at it."""
        return tuple(self.theta.shape[1:])

    @property
    def visible_size(self) -> tuple[int, int]:
        """(rows, columns) of the cells that lie on the image, the others being padding."""
        return tuple(
            min(length, math.ceil(pixels / self.stride))
            for length, pixels in zip(self.map_size, self.image_size)
        )

    def cell_at(self, x: float, y: float) -> tuple[int, int]:
        """The cell (row, column) at a point of the image.

        Args:
            x, y: from 0, the image's left and upper edge, to 1, its right and lower one.

        Raises:
            ValueError: if the point isn't on the image.
        """
        if not (0 <= x <= 1 and 0 <= y <= 1):
            raise ValueError("the point lies outside the image")
        row, column = (
            min(int(part * pixels / self.stride), length - 1)
            for part, pixels, length in zip((y, x), self.image_size, self.visible_size)
        )
        return row, column

    def row(self, row: int, column: int) -> Row:
        """What the cell (row, column) looks at, over the whole map."""
        appearance = torch.einsum("d,dhw->hw", self.theta[:, row, column], self.phi)
        if self.softmax:
            appearance = appearance.flatten().softmax(dim=0).view_as(appearance)
        if self.kernels is None:
            return Row(appearance, None, appearance, multiplied=False)
        position = position_row(self.kernels, (row, column))
        total = appearance * position if self.multiply else appearance + position
        return Row(appearance, position, total, multiplied=self.multiply)

    def visible_row(self, row: int, column: int) -> Row:
        """:meth:`row` without the padding's cells: what there is to see of it on the image."""
        whole = self.row(row, column)
        rows, columns = self.visible_size
        maps = (
            None if map_ is None else map_[:rows, :columns]
            for map_ in (whole.appearance, whole.position, whole.total)
        )
        return Row(*maps, multiplied=whole.multiplied)


def has_signs(kernels: Sequence[Tensor]) -> bool:
    """Whether ``L = L_h ⊗ L_w`` of L_h (H, H) and L_w (W, W) goes below zero anywhere."""
    return any(bool((kernel < 0).any()) for kernel in kernels)


def position_row(kernels: Sequence[Tensor], cell: tuple[int, int]) -> Tensor:
    """One row of ``L = L_h ⊗ L_w``, the filter that a position term is at one cell.

    Args:
        kernels: L_h (H, H) and L_w (W, W).
        cell: (row, column).

    Returns:
        (H, W).
    """
    return torch.outer(*(kernel[index] for kernel, index in zip(kernels, cell)))


@torch.no_grad()
def block_attention(
    block: ProjectedBlock, x: Tensor, stride: int, image_size: tuple[int, int]
) -> Attention:
    """The attention of a block for its input.

    Args:
        block: any that relates positions by θ and φ.
        x: (1, C, H, W), what the block is given.
        stride, image_size: see :class:`Attention`.
    """
    softmax = multiply = False
    if isinstance(block, ENLBlock):
        theta, phi = block.theta_hat(x), block.phi_hat(x)
    else:
        theta, phi = block.theta(x), block.phi(x)
    if isinstance(block, NonLocalBlock):
        softmax, multiply = block.affinity_norm == "softmax", block.multiply
        if not softmax:
            phi = phi / (x.shape[2] * x.shape[3])
    dtype = torch.promote_types(theta.dtype, torch.float32)  # softmax and sums need it
    theta, phi = theta[0].to(dtype), phi[0].to(dtype).reshape(theta[0].shape)
    kernels = None
    if block.position_term is not None:
        kernel_h, kernel_w = block.position_term.kernels(x, normalized=not multiply)
        kernels = kernel_h[0].to(dtype), kernel_w[0].to(dtype)
    return Attention(theta, phi, kernels, softmax, multiply, stride, image_size)


def capture_attention(model: nn.Module, record: dict[str, Any]) -> tuple[Any, dict[str, Attention]]:
    """Runs a detector on one image and keeps what its relation blocks saw.

    Args:
        model: a detectron2 model with a ``backbone``, in inference mode.
        record: what the model takes for one image: "image" (3, height, width), and whatever else.

    Returns:
        The model's output for the image, and the attention of each block that relates positions
        by the block's name, in the order in which they run: top-down from coarse to fine.

    Raises:
        UserError: (a ValueError) if the model has no such block.
    """
    blocks = {
        name: block
        for name, block in relation_blocks(model).items()
        if isinstance(block, ProjectedBlock)
    }
    if not blocks:
        raise UserError(
            "the model has no block that relates positions, so there is no attention to show"
        )
    padded_size: list[int] = []
    inputs: dict[str, tuple[Tensor, Tensor | None]] = {}

    def keep_size(_, args):
        padded_size[:] = args[0].shape[-2:]

    def keep_input(name):
        def hook(_, args):
            inputs[name] = (args[0].detach(), args[1] if len(args) > 1 else None)

        return hook

    hooks = [model.backbone.register_forward_pre_hook(keep_size)]
    hooks += [block.register_forward_pre_hook(keep_input(n)) for n, block in blocks.items()]
    try:
        with torch.no_grad():
            output = model([record])[0]
    finally:
        for hook in hooks:
            hook.remove()
    image_size = tuple(record["image"].shape[-2:])
    attention = {}
    for name, (x, extent) in inputs.items():
        # A map may be rounded up to a whole cell, so take the longer side and a power of two.
        stride = 2 ** round(math.log2(max(padded_size) / max(x.shape[-2:])))
        if extent is not None:  # the block sees no more than this
            height, width = extent[0].tolist()
            x = x[:, :, :height, :width]
        attention[name] = block_attention(blocks[name], x, stride, image_size)
    return output, attention
