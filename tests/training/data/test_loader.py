"""What the loader takes from detectron2 without being offered it."""

from detectron2.data import build_detection_train_loader
from detectron2.data.build import trivial_batch_collator
from detectron2.data.common import MapDataset
from detectron2.utils.serialize import PicklableWrapper

from enl_detectron2.training.data import loader
from enl_detectron2.training.data.loader import CheckedMapper, TrainLoader

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


def test_detectron2s_loader_has_what_is_asked_of_it():
    for grouped in (True, False):
        built = build_detection_train_loader(
            RECORDS, mapper=mapper, total_batch_size=2, aspect_ratio_grouping=grouped
        )
        ours = TrainLoader(built, seed=0)
        assert ours.batch_size == 2 and ours.options["num_workers"] == 0
        batch = next(iter(ours))
        assert len(batch) == 2 and all(record["mapped"] for record in batch)
        plain = built.dataset if grouped else built
        assert grouped or plain.collate_fn is trivial_batch_collator


def test_a_mapper_of_ones_own_reads_its_images_itself():
    assert CheckedMapper(mapper)({"file_name": "nowhere.tif"})["mapped"]
