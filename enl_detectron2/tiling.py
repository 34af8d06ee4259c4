"""A detector that looks at large photographs in tiles: a model like any other."""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from detectron2.data import transforms as T
from detectron2.data.detection_utils import read_image as read_with_detectron2
from detectron2.structures import Boxes, Instances
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

SAME = 0.5  # IoU, where both tiles see them, from which boxes of a class are the same object
EDGE = 2.0  # pixels: a box that ends as near to its tile's edge may go on beyond it


class TiledDetector(nn.Module):
    """Another detector on overlapping tiles of each photograph, and what they give as one.

    Input and output are detectron2's: a list of dicts, and a list of {"instances": Instances}. A
    loader has often made the photograph smaller already. Then, as detectron2's
    ``GeneralizedRCNNWithTTA`` does, this reads its "file_name" again, so that tiles are in pixels
    of the file.

    Two tiles' boxes of a class are one object if, in the part of the photograph that both tiles
    see, they overlap with an IoU of 0.5 or more. Each side of its box is that of the tile in which
    this side lies farthest from the edge, so that a large object is put together from its pieces.
    What one tile gives as several objects stays several. A box that ends at its tile's edge, and
    that a tile which sees more of it doesn't give, is left out. Masks are put together, too; the
    score is the highest; what else the model gives is of the tile that sees the object best. Masks
    take a byte for each object and pixel of the photograph.

    A photograph may give more detections than the model's own limit, which holds for a tile.
    """

    def __init__(
        self,
        model: nn.Module,
        tile: int,
        overlap: int | None = None,
        *,
        augmentations: Sequence[T.Augmentation] = (),
        image_format: str | None = None,
        read_image: Callable[[str, str], np.ndarray] = read_with_detectron2,
        batch_size: int = 1,
    ):
        """
        Args:
            model: of detectron2, that gives "instances" with ``pred_boxes``.
            tile: the side of the square tiles, in pixels of the file.
            overlap: of neighbours, at least, in pixels; a quarter of a tile by default.
            augmentations: what the test's mapper does to an image, as ``ResizeShortestEdge``; it is
                done to each tile.
            image_format: of the files' reading, by default the model's ``input_format``.
            read_image: file name, format → (H, W, C) uint8.
            batch_size: tiles that the model is given at once; on a CPU more than one is slower.

        Raises:
            ValueError: if the tile isn't above 0, or the overlap not from 0 to less than a tile.
        """
        super().__init__()
        self.model = model.module if isinstance(model, DistributedDataParallel) else model
        if tile <= 0:
            raise ValueError(f"tile must be a number of pixels above 0, got {tile}")
        self.tile, self.overlap = tile, tile // 4 if overlap is None else overlap
        if not 0 <= self.overlap < tile:
            raise ValueError(f"overlap must be from 0 to less than tile {tile}, got {overlap}")
        self.augmentations = T.AugmentationList(augmentations)
        self.image_format = image_format or getattr(self.model, "input_format", None) or "BGR"
        self.read_image, self.batch_size = read_image, batch_size
        self.training = self.model.training  # as an evaluation leaves it in the end

    @torch.no_grad()
    def forward(self, batched_inputs: Sequence[Mapping[str, Any]]) -> list[dict[str, Instances]]:
        """
        Args:
            batched_inputs: one dict for each photograph, with "image", (C, H, W), and, where the
                photograph is another size, its "height", "width" and "file_name".

        Raises:
            ValueError: if the whole photograph isn't to be had, a tile is too narrow to be resized,
                or the model gives no instances.
        """
        return [
            {"instances": self._detect(self._whole(record), record.get("file_name"))}
            for record in batched_inputs
        ]

    def _whole(self, record: Mapping[str, Any]) -> np.ndarray:
        given = tuple(record["image"].shape[1:]) if "image" in record else None
        size = (record.get("height"), record.get("width"))
        if given is not None and (size == given or None in size):
            return record["image"].permute(1, 2, 0).cpu().numpy()
        if "file_name" not in record:
            raise ValueError(
                f"the image was resized from {size} to {given}, so its file_name is needed: tiles "
                "are cut from the file"
            )
        image = self.read_image(record["file_name"], self.image_format)
        image = image.reshape(*image.shape[:2], -1)  # grey has no third dimension
        if None not in size and image.shape[:2] != size:
            raise ValueError(
                f"{record['file_name']} is {image.shape[:2]} pixels high and wide, not {size}"
            )
        return image

    def _detect(self, image: np.ndarray, file_name: str | None) -> Instances:
        height, width = image.shape[:2]
        starts = [_starts(length, self.tile, self.overlap) for length in (height, width)]
        corners = list(itertools.product(*starts))
        name = {} if file_name is None else {"file_name": file_name}
        found = []
        for first in range(0, len(corners), self.batch_size):
            parts = [
                image[top : top + self.tile, left : left + self.tile]
                for top, left in corners[first : first + self.batch_size]
            ]
            for output in self.model([resized(part, self.augmentations) | name for part in parts]):
                if "instances" not in output:
                    raise ValueError(f"the model gives {' and '.join(output)}, but no instances")
                found.append(output["instances"])
        if len(found) == 1:
            return found[0]
        return _merged(found, corners, (height, width))


def resized(image: np.ndarray, augmentations: T.AugmentationList) -> dict[str, Any]:
    """What a model of detectron2 takes for an image (H, W) or (H, W, C), uint8.

    Raises:
        ValueError: if it can't be resized, as 5,000 pixels by 1 often can't.
    """
    height, width = image.shape[:2]
    changed = T.AugInput(image)
    try:
        augmentations(changed)
    except ValueError as error:
        raise ValueError(
            f"{width}×{height} pixels can't be resized for the model: {error}"
        ) from error
    pixels = changed.image.reshape(*changed.image.shape[:2], -1)  # grey has no third dimension
    pixels = torch.as_tensor(pixels.transpose(2, 0, 1).copy())
    return {"image": pixels, "height": height, "width": width}


def _starts(length: int, tile: int, overlap: int) -> list[int]:
    """Where tiles begin, as evenly as whole pixels let them."""
    if length <= tile:
        return [0]
    steps = math.ceil((length - tile) / (tile - overlap))
    return [(length - tile) * step // steps for step in range(steps + 1)]


def _merged(
    found: Sequence[Instances], corners: Sequence[tuple[int, int]], size: tuple[int, int]
) -> Instances:
    """The detections of all tiles as those of one photograph, the highest score first.

    Args:
        found: of each tile, in its pixels.
        corners: the tiles' tops and lefts.
        size: height and width of the photograph.
    """
    device = found[0].scores.device
    tiles, masks, moved = [], [], []
    for (top, left), instances in zip(corners, found):
        instances = instances.to("cpu")
        high, wide = instances.image_size
        tiles.append([left, top, left + wide, top + high])
        fields = dict(instances.get_fields())
        masks += [(top, left, mask) for mask in fields.pop("pred_masks", ())]
        fields["pred_boxes"] = Boxes(fields["pred_boxes"].tensor + torch.tensor([left, top] * 2))
        if "pred_keypoints" in fields:
            fields["pred_keypoints"] = fields["pred_keypoints"] + torch.tensor([left, top, 0])
        moved.append(Instances(size, **fields))
    tile_of = torch.arange(len(moved)).repeat_interleave(torch.tensor([len(one) for one in moved]))
    every = Instances.cat(moved)
    boxes, scores = every.pred_boxes.tensor, every.scores
    view = torch.tensor(tiles, dtype=boxes.dtype)
    room = _room(boxes, view[tile_of], size)
    is_cut = (room < EDGE).any(dim=1)

    groups = _groups(boxes, every.pred_classes, tile_of, view)
    groups = [
        group
        for group in groups
        if len(group) > 1
        or not is_cut[group[0]]
        or not _seen_better(boxes[group[0]], view, size, room[group[0]].min())
    ]
    order = sorted(groups, key=lambda group: -scores[group].max())
    # The tile that sees an object best: whole, if one does.
    best = [max(group, key=lambda one: (not is_cut[one], scores[one].item())) for group in order]
    result = every[torch.tensor(best, dtype=torch.long)]
    for place, group in enumerate(order):
        result.scores[place] = scores[group].max()
        for side in range(4):
            one = max(group, key=lambda one: (room[one, side].item(), scores[one].item()))
            result.pred_boxes.tensor[place, side] = boxes[one, side]
    if found[0].has("pred_masks"):
        result.pred_masks = torch.zeros(len(order), *size, dtype=torch.bool)
        for place, group in enumerate(order):
            for one in group if is_cut[best[place]] else [best[place]]:
                top, left, mask = masks[one]
                part = result.pred_masks[place, top : top + len(mask), left : left + mask.shape[1]]
                part |= mask
    return result.to(device)


def _room(boxes: Tensor, view: Tensor, size: tuple[int, int]) -> Tensor:
    """How far each side of a box is from its tile's edges; an edge of the photograph is none.

    Args:
        boxes, view: (n, 4), x₀ y₀ x₁ y₁, the second of the box's tile.
        size: height and width of the photograph.
    """
    infinite = torch.tensor(math.inf)
    low = torch.where(view[:, :2] <= 0, -infinite, view[:, :2]).repeat(1, 2)
    end = torch.tensor([size[1], size[0]])
    high = torch.where(view[:, 2:] >= end, infinite, view[:, 2:]).repeat(1, 2)
    return torch.minimum(boxes - low, high - boxes)


def _seen_better(box: Tensor, view: Tensor, size: tuple[int, int], room: Tensor) -> bool:
    """Whether a tile sees all of a box, and it ends farther from that tile's edges."""
    inside = ((view[:, :2] <= box[:2]) & (view[:, 2:] >= box[2:])).all(dim=1)
    return bool(
        (_room(box.expand(len(view), 4), view, size)[inside].amin(dim=1) > room + EDGE).any()
    )


def _groups(boxes: Tensor, classes: Tensor, tile_of: Tensor, view: Tensor) -> list[list[int]]:
    """Which boxes are the same object: lists of their numbers, at most one of each tile."""
    pairs: list[tuple[float, int, int]] = []
    members = [torch.nonzero(tile_of == place).flatten() for place in range(len(view))]
    for one in range(len(view)):
        low = view[one, :2].maximum(view[one + 1 :, :2])
        high = view[one, 2:].minimum(view[one + 1 :, 2:])
        for place in torch.nonzero((low < high).all(dim=1)).flatten().tolist():
            first, second = members[one], members[one + 1 + place]
            common = torch.cat([low[place], high[place]])
            overlap = _iou_within(boxes[first], boxes[second], common)
            overlap[classes[first][:, None] != classes[second]] = 0
            for i, j in torch.nonzero(overlap >= SAME).tolist():
                pairs.append((overlap[i, j].item(), first[i].item(), second[j].item()))
    group = {number: [number] for number in range(len(boxes))}
    for _, i, j in sorted(pairs, reverse=True):
        ours, theirs = group[i], group[j]
        tiles = {int(tile_of[one]) for one in ours}
        if tiles.isdisjoint(int(tile_of[one]) for one in theirs):
            ours += theirs
            group.update(dict.fromkeys(theirs, ours))
    return list({id(one): one for one in group.values()}.values())


def _iou_within(first: Tensor, second: Tensor, common: Tensor) -> Tensor:
    """The IoU of what lies of two sets of boxes within one, (n, 4), (m, 4), (4,) → (n, m)."""

    def clipped(boxes: Tensor) -> Tensor:
        low, high = common[:2], common[2:]
        return torch.cat([boxes[:, :2].maximum(low), boxes[:, 2:].minimum(high)], dim=1)

    def area(low: Tensor, high: Tensor) -> Tensor:
        return (high - low).clamp(min=0).prod(dim=-1)

    first, second = clipped(first), clipped(second)
    both = area(
        first[:, None, :2].maximum(second[None, :, :2]),
        first[:, None, 2:].minimum(second[None, :, 2:]),
    )
    one, other = area(first[:, :2], first[:, 2:]), area(second[:, :2], second[:, 2:])
    return both / (one[:, None] + other - both).clamp(min=1e-6)
