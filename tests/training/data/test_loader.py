"""What the loader takes from detectron2 without being offered it."""

import numpy as np
import pytest
from detectron2.data import DatasetMapper, build_detection_train_loader
from detectron2.data.build import trivial_batch_collator
from detectron2.data.common import MapDataset
from detectron2.utils.serialize import PicklableWrapper
from PIL import Image

from enl_detectron2.training.data import loader
from enl_detectron2.training.data.loader import TrainLoader
from enl_detectron2.utils.errors import BadImage, ConfigError

RECORDS = [{"file_name": f"{index}.png", "width": 4, "height": 3} for index in range(5)]


def mapper(record):
    return record | {"mapped": True}


def test_a_built_loaders_parts_are_those_it_was_built_of():
    """Fails when detectron2 renames its private attributes, see ``loader._parts``."""
    images = MapDataset(RECORDS, mapper)
    records, map_function = loader._parts(images)
    assert list(records) == RECORDS
    assert map_function(RECORDS[0]) == images[0] == mapper(RECORDS[0])
    assert isinstance(map_function, PicklableWrapper)
    assert loader._unwrapped(map_function) is loader._unwrapped(mapper) is mapper


@pytest.mark.parametrize("grouped", [True, False])
def test_detectron2s_loader_has_what_is_asked_of_it(grouped):
    options = {"total_batch_size": 2, "aspect_ratio_grouping": grouped}
    built = build_detection_train_loader(RECORDS, mapper=mapper, **options)
    ours = TrainLoader(built, seed=0)
    assert ours.batch_size == 2 and ours.options["num_workers"] == 0
    batch = next(iter(ours))
    assert len(batch) == 2 and all(record["mapped"] for record in batch)
    assert grouped or built.collate_fn is trivial_batch_collator


@pytest.mark.parametrize("deep_images", ["refuse", "rescale"])
def test_deep_images_reach_the_loader_of_detectron2s_own_mapper(tmp_path, deep_images):
    path = str(tmp_path / "deep.png")
    Image.fromarray(np.full((3, 4), 4000, np.uint16)).save(path)
    records = [{"file_name": path, "width": 4, "height": 3}]
    own = DatasetMapper(is_train=True, augmentations=[], image_format="BGR")
    built = build_detection_train_loader(records, mapper=own, total_batch_size=1)
    ours = TrainLoader(built, seed=0, deep_images=deep_images)
    if deep_images == "rescale":
        (data,) = next(iter(ours))
        assert data["file_name"] == path and data["image"].shape == (3, 3, 4)
    else:
        with pytest.raises(BadImage, match="deep.png .* more than 8 bits"):
            next(iter(ours))
    with pytest.raises(
        ConfigError, match="ON_BAD_IMAGE .* must be 'stop' or 'replace', got 'skip'"
    ):
        TrainLoader(built, seed=0, on_bad_image="skip")
    options = {"total_batch_size": 1, "aspect_ratio_grouping": False, "collate_fn": list}
    built = build_detection_train_loader(records, mapper=own, **options)
    with pytest.raises(TypeError, match="collate_fn of its own"):
        TrainLoader(built, seed=0)
