"""What a position of a feature map looks at: one row of a relation block's F̃, in O(N).

A block sums over all N positions of its map, ``y_i = Σ_j F̃[i, j] g_j``. Row i of F̃, laid out as
the map, says where the answer of position i comes from, and it takes no N×N matrix: θ of position
i times φ̂ of all positions, and one row of the position term, which is an outer product.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from enl_detectron2.layers import CosPosition, ENLBlock, L1Position, NonLocalBlock


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
    """A block's θ, φ̂ and g of one image, and how F̃ follows from them.

    ``F[i, j] = θ_iᵀ φ̂_j``, or its softmax over j if ``softmax``.
    """

    theta: Tensor  # (D, H, W), as it enters F: after tanh, if the block has it
    phi: Tensor  # (D, H, W), likewise: φ̂ of ENLBlock, φ/N of a mean, φ itself before a softmax
    g: Tensor  # (D, H, W)
    softmax: bool
    position: CosPosition | L1Position | None
    multiply: bool  # F ⊙ L instead of F + L
    stride: int  # pixels of the network's input to a cell of the map
    image_size: tuple[int, int]  # (height, width) of the network's input, without its padding

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
        if self.position is None:
            return Row(appearance, None, appearance, multiplied=False)
        position = position_row(
            self.position, self.map_size, (row, column), for_product=self.multiply, like=appearance
        )
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


def position_row(
    position: CosPosition | L1Position,
    map_size: tuple[int, int],
    cell: tuple[int, int],
    *,
    for_product: bool = False,
    like: Tensor | None = None,
) -> Tensor:
    """One row of L, the filter that a position term is at one cell.

    Args:
        position: a block's term.
        map_size: (H, W).
        cell: (row, column).
        for_product: the l1 term has rows of sum 1 if it is added, and is raw if it multiplies.
        like: the result has its dtype and device.

    Returns:
        (H, W).
    """
    like = torch.empty(0) if like is None else like
    factors = []
    for length, index in zip(map_size, cell):
        if isinstance(position, CosPosition):
            basis = position.basis(length, like)
            factors.append(basis @ basis[index])
        else:
            kernel = position.kernel(length, like)[index]
            factors.append(kernel if for_product else kernel / kernel.sum())
    return torch.outer(*factors)


def block_attention(
    block: ENLBlock | NonLocalBlock, x: Tensor, stride: int, image_size: tuple[int, int]
) -> Attention:
    """The attention of a block for its input.

    Args:
        block: of either kind, with any options.
        x: (1, C, H, W), what the block is given.
        stride, image_size: see :class:`Attention`.
    """
    with torch.no_grad():
        theta, phi, g = (projection(x)[0] for projection in (block.theta, block.phi, block.g))
    dtype = torch.promote_types(theta.dtype, torch.float32)  # softmax and sums need it
    theta, phi, g = theta.to(dtype), phi.to(dtype), g.to(dtype)
    positions = phi.shape[1] * phi.shape[2]
    softmax = multiply = False
    if isinstance(block, ENLBlock):
        if block.theta_norm == "tanh":
            theta = theta.tanh()
        if block.phi_norm == "softmax":
            phi = phi.flatten(1).softmax(dim=1).view_as(phi)
        elif block.phi_norm == "mean":
            phi = phi / positions
    else:
        softmax, multiply = block.affinity_norm == "softmax", block.multiply
        if not softmax:
            phi = phi / positions
    return Attention(theta, phi, g, softmax, block.position, multiply, stride, image_size)


def capture_attention(model: nn.Module, record: dict[str, Any]) -> tuple[Any, dict[str, Attention]]:
    """Runs a detector on one image and keeps what its relation blocks saw.

    Args:
        model: a detectron2 model with a ``backbone``, in inference mode.
        record: what the model takes for one image: "image" (3, height, width), and whatever else.

    Returns:
        The model's output for the image, and the attention of each ENLBlock and NonLocalBlock by
        the block's name, in the order in which they run: top-down from coarse to fine.

    Raises:
        ValueError: if the model has no such block.
    """
    blocks = {
        name: block
        for name, block in model.named_modules()
        if isinstance(block, (ENLBlock, NonLocalBlock))
    }
    if not blocks:
        raise ValueError(
            "the model has no ENLBlock and no NonLocalBlock, so there is no attention to show"
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
