import numpy as np
import pytest
import torch
from detectron2.data import transforms as T
from detectron2.structures import Boxes, Instances, pairwise_iou
from PIL import Image
from torch import nn

from enl_detectron2.tiling import TiledDetector

TILE, OVERLAP = 64, 16
SIZE = (150, 200)  # height and width of the photograph
LARGE = 24  # one and a half overlaps


class Finder(nn.Module):
    """Finds what isn't black, one object for each grey value: of what a tile shows of it.

    Boxes are off by up to a twentieth of their side, as a detector's are.
    """

    def __init__(self, masks=False):
        super().__init__()
        self.masks, self.calls = masks, []

    def forward(self, batched_inputs):
        return [{"instances": self.find(record)} for record in batched_inputs]

    def find(self, record):
        image = record["image"][0]
        self.calls.append(tuple(image.shape))
        high, wide = record["height"], record["width"]
        scale = torch.tensor([wide / image.shape[1], high / image.shape[0]] * 2)
        values = [value for value in image.unique() if value]
        masks = [image == value for value in values]
        boxes = torch.zeros(len(values), 4)
        noise = torch.Generator().manual_seed(len(self.calls))
        for box, mask in zip(boxes, masks):
            y, x = torch.nonzero(mask, as_tuple=True)
            box[:] = torch.stack([x.min(), y.min(), x.max() + 1, y.max() + 1])
            side = (box[2:] - box[:2]).repeat(2)
            box += side * (torch.rand(4, generator=noise) - 0.5) / 10
        boxes = Boxes(boxes * scale)
        boxes.clip((high, wide))
        found = Instances((high, wide), pred_boxes=boxes)
        found.scores = 0.5 + torch.rand(len(values), generator=noise) / 2
        found.pred_classes = torch.zeros(len(values), dtype=torch.long)
        if self.masks:
            found.pred_masks = torch.stack(masks) if masks else torch.zeros(0, *image.shape) > 0
        return found


def photograph(*boxes):
    image = np.zeros((*SIZE, 3), dtype=np.uint8)
    for value, (x0, y0, x1, y1) in enumerate(boxes, start=1):
        image[y0:y1, x0:x1] = 10 * value
    return image


def as_record(image, **more):
    return {"image": torch.as_tensor(image.transpose(2, 0, 1).copy()), **more}


def places():
    """Twenty places of a large object on the seams between tiles, and where these cross."""
    xs = [40, 44, 48, 52, 88, 92, 96, 100, 120, 130]
    places = [(x, 10 + place % 3) for place, x in enumerate(xs)]
    return places + [(x, y) for x in (44, 50, 90, 96, 130) for y in (44, 90)]


@pytest.mark.parametrize("masks", [False, True])
def test_a_large_object_on_a_seam_gives_one_box(masks):
    model = TiledDetector(Finder(masks), TILE, OVERLAP).eval()
    for x, y in places():
        box = (x, y, x + LARGE, y + LARGE)
        image = photograph(box)
        (output,) = model([as_record(image)])
        found = output["instances"]
        assert len(found) == 1, box
        assert pairwise_iou(found.pred_boxes, Boxes(torch.tensor([box]).float())) >= 0.8, box
        if masks:
            assert torch.equal(found.pred_masks[0], torch.as_tensor(image[:, :, 0] > 0)), box


def test_neighbours_stay_apart_and_nothing_is_counted_twice():
    rng = np.random.default_rng(0)
    spots = [(x, y) for x in range(0, 192, 12) for y in range(0, 144, 12)]
    boxes = [(x, y, x + w, y + h) for (x, y), w, h in zip(spots, *rng.integers(6, 12, (2, 192)))]
    image = photograph()
    for value, (x0, y0, x1, y1) in enumerate(boxes, start=1):
        image[y0:y1, x0:x1] = value
    (output,) = TiledDetector(Finder(), TILE, OVERLAP)([as_record(image)])
    found = output["instances"]
    assert len(found) == len(boxes)
    best = pairwise_iou(found.pred_boxes, Boxes(torch.tensor(boxes).float())).max(dim=0).values
    assert (best > 0.7).all()
    assert (found.scores.diff() <= 0).all()


def test_classes_of_one_place_stay_two_objects():
    class Both(Finder):
        def find(self, record):
            found = Instances.cat([super().find(record)] * 2)
            found.pred_classes[len(found) // 2 :] = 1
            return found

    (output,) = TiledDetector(Both(), TILE, OVERLAP)([as_record(photograph((50, 10, 60, 20)))])
    assert sorted(output["instances"].pred_classes.tolist()) == [0, 1]


def test_tiles_are_cut_from_the_file_where_the_image_is_resized(tmp_path):
    file = tmp_path / "photograph.png"
    box = (50, 40, 60, 52)
    image = photograph(box)
    Image.fromarray(image).save(file)
    finder = Finder()
    enlarge = T.Resize((128, 128), interp=Image.Resampling.NEAREST)
    model = TiledDetector(finder, TILE, OVERLAP, augmentations=[enlarge])
    small = as_record(image[::4, ::4], height=SIZE[0], width=SIZE[1])
    (output,) = model([{**small, "file_name": str(file)}])
    assert set(finder.calls) == {(128, 128)} and len(finder.calls) == 12
    assert pairwise_iou(output["instances"].pred_boxes, Boxes(torch.tensor([box]).float())) > 0.8
    with pytest.raises(ValueError, match="its file_name is needed"):
        model([small])
    with pytest.raises(ValueError, match="is \\(150, 200\\) pixels high and wide, not"):
        model([{**small, "height": 300, "file_name": str(file)}])


def test_small_images_are_one_tile_and_empty_ones_give_nothing():
    finder = Finder()
    model = TiledDetector(finder, 256)
    (output,) = model([as_record(photograph((1, 1, 9, 9)))])
    assert finder.calls == [SIZE] and len(output["instances"]) == 1
    for masks in (False, True):
        (output,) = TiledDetector(Finder(masks), TILE)([as_record(photograph())])
        assert len(output["instances"]) == 0
    with pytest.raises(ValueError, match="overlap must be from 0 to less than tile 64, got 64"):
        TiledDetector(finder, 64, 64)
