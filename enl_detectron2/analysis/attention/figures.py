"""Pictures of what a point of an image looks at, and of the position term alone."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib

matplotlib.use("Agg")  # drawn to a file, also where there is no screen

import matplotlib.pyplot as plt
import numpy as np
import torch
from detectron2.utils.visualizer import Visualizer
from torch import Tensor

from enl_detectron2.analysis.drawing import plain_text, save_figure
from enl_detectron2.layers import SeparablePosition

from .colours import MARKER, colour_map
from .maps import Attention, Row, has_signs, position_row

OVERLAY = 0.75  # the largest value's opacity over the image


@plain_text
def draw_attention(
    image: np.ndarray,
    attention: Mapping[str, Attention],
    point: tuple[float, float],
    figure_file: str | os.PathLike,
    *,
    boxes: np.ndarray | None = None,
) -> None:
    """Draws what one point looks at in each block: appearance, position, and both together.

    Args:
        image: (height, width, 3), RGB, uint8.
        attention: of this image, by the block's name: a row of the figure for each.
        point: (x, y) in pixels of ``image``.
        figure_file: the picture to write; its suffix says its format.
        boxes: (n, 4) detections in pixels of ``image``, x₀ y₀ x₁ y₁, to outline beside.

    Raises:
        ValueError: if the point isn't on the image.
    """
    height, width = image.shape[:2]
    x, y = point
    drawing = Visualizer(image, scale=max(1.0, 480 / width))
    if boxes is not None:
        drawing.overlay_instances(boxes=boxes, assigned_colors=["w"] * len(boxes))
    plain = drawing.output.get_image()
    grey = np.repeat(image.mean(axis=2, keepdims=True).astype(np.uint8), 3, axis=2)

    panel_height = 3.05 * height / width
    figure, axes = plt.subplots(
        len(attention),
        4,
        figsize=(16.5, (panel_height + 0.4) * len(attention)),
        squeeze=False,
        layout="constrained",
    )
    for (name, block), (image_axes, *map_axes) in zip(attention.items(), axes):
        row, column = block.cell_at(x / width, y / height)
        seen = block.visible_row(row, column)
        image_axes.imshow(plain, extent=(0, width, height, 0))
        image_axes.set_title(f"{name}, stride {block.stride}", fontsize=10)
        maps = dict(zip(_titles(seen), (seen.appearance, seen.position, seen.total)))
        for axis, (title, map_), signed in zip(map_axes, maps.items(), block.signed.values()):
            axis.imshow(grey, extent=(0, width, height, 0))
            drawn = _overlay(axis, map_, signed, block, (height, width))
            axis.set_title(title, fontsize=10)
            figure.colorbar(drawn, ax=axis, shrink=0.85)
        for axis in map_axes[len(maps) :]:
            axis.remove()
        for axis in (image_axes, *map_axes[: len(maps)]):
            axis.plot(x, y, "o", color=MARKER, markeredgecolor="white", markersize=8)
            axis.set(xlim=(0, width), ylim=(height, 0))
            axis.set_axis_off()
    save_figure(figure, figure_file, dpi=90)
    plt.close(figure)


def draw_position_filters(
    position: SeparablePosition,
    map_sizes: Sequence[tuple[int, int]],
    points: Sequence[tuple[float, float]],
    figure_file: str | os.PathLike,
) -> None:
    """Draws rows of an added L: the filter at each of some points, on maps of some sizes.

    Args:
        position: the term.
        map_sizes: (H, W) of each map: a row of the figure.
        points: (x, y) of each filter from 0 to 1, left to right and top to bottom: a column.
        figure_file: the picture to write; its suffix says its format.

    Raises:
        ValueError: if a point isn't within 0 to 1.
    """
    if not all(0 <= part <= 1 for point in points for part in point):
        raise ValueError("each point must be two numbers from 0 to 1")
    figure, axes = plt.subplots(
        len(map_sizes),
        len(points),
        figsize=(4.2 * len(points), 3.3 * len(map_sizes)),
        squeeze=False,
        layout="constrained",
    )
    for (height, width), size_axes in zip(map_sizes, axes):
        kernels = position.kernels(torch.empty(1, 1, height, width), normalized=True)
        kernels = [kernel[0] for kernel in kernels]
        signed = has_signs(kernels)
        for (x, y), axis in zip(points, size_axes):
            row, column = min(int(y * height), height - 1), min(int(x * width), width - 1)
            filter_ = position_row(kernels, (row, column))
            drawn = axis.imshow(filter_.numpy(), **_colours(filter_, signed))
            axis.plot(column, row, "+", color="black", markersize=8)
            axis.set_title(f"{height}×{width} cells, at row {row}, column {column}", fontsize=10)
            axis.set(xticks=[], yticks=[])
            figure.colorbar(drawn, ax=axis, shrink=0.85)
    save_figure(figure, figure_file, dpi=90)
    plt.close(figure)


def _titles(seen: Row) -> list[str]:
    """Of the panels of a row: appearance, and if there is a position term that and both."""
    if seen.position is None:
        return ["F, appearance only"]
    if (share := seen.appearance_share) is not None:
        return [
            f"F, appearance ({share:.0%} of Σ|F| + Σ|L|)",
            f"L, position ({1 - share:.0%})",
            "F̃ = F + L",
        ]
    return ["F, appearance", "L, position", "F̃ = F ⊙ L"]


def _overlay(axis, map_: Tensor, signed: bool, block: Attention, size: tuple[int, int]):
    """The cells of a map where they lie on an image of ``size``; the last ones may stick out."""
    rows, columns = map_.shape
    bottom, right = (
        cells * block.stride * pixels / of_input
        for cells, pixels, of_input in zip((rows, columns), size, block.image_size)
    )
    return axis.imshow(
        map_.cpu().numpy(),
        **_colours(map_, signed, OVERLAY),
        extent=(0, right, bottom, 0),
        interpolation="nearest",
    )


def _colours(map_: Tensor, signed: bool, opacity: float = 1.0) -> dict[str, Any]:
    """A map's colours and scale, for ``imshow``: zero is transparent."""
    limit = map_.abs().max().item() or 1.0
    return {
        "cmap": colour_map(signed, opacity),
        "vmin": -limit if signed else 0.0,
        "vmax": limit,
    }
