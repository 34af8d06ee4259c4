"""Training images in an order that can be taken up anywhere, and images that can't be read.

detectron2's own loaders start anew when a run is resumed, and their augmentations depend on the
number of worker processes. Here the image, its place and its augmentations follow from the seed and
from how many images came before.
"""

import contextlib
import functools
import itertools
import logging
import random
import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from detectron2.data import DatasetMapper
from detectron2.data.build import trivial_batch_collator
from detectron2.data.common import AspectRatioGroupedDataset, MapDataset, ToIterableDataset
from detectron2.utils import comm
from detectron2.utils.serialize import PicklableWrapper
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from enl_detectron2.utils.errors import BadImage, ConfigError
from enl_detectron2.utils.text import reason

from .images import rescaled

Mapper = Callable[[dict[str, Any]], dict[str, Any]]
ON_BAD_IMAGE = ("stop", "replace")
REPLACEMENTS = 10  # images tried in place of a bad one

logger = logging.getLogger(__name__)


def seed_of(*numbers: int) -> int:
    """A seed that follows from all of ``numbers``, each at least 0."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


class CheckedMapper:
    """A mapper of detectron2 whose errors name the image."""

    def __init__(self, mapper: Mapper, deep_images: str = "refuse"):
        """
        Args:
            mapper: of records in detectron2's format.
            deep_images: as of :func:`.images.read_image`, if it is detectron2's own mapper;
                another one reads its images as it likes.
        """
        self.mapper, self.deep_images = mapper, deep_images
        self.is_detectron2s = isinstance(_unwrapped(mapper), DatasetMapper)

    def __call__(self, record: dict[str, Any]) -> dict[str, Any]:
        """
        Args:
            record: of one image, in detectron2's format.

        Raises:
            BadImage: (a ValueError) if the mapper fails.
        """
        name = record.get("file_name")
        try:
            if self.is_detectron2s:
                data = self._map(record, rescaled(name, self.deep_images))
            else:
                data = self.mapper(record)
            if data is None:
                raise ValueError("the mapper has left it out")
        except Exception as error:  # Pillow raises errors of many kinds for damaged files
            raise BadImage(
                f"{name} (image {record.get('image_id')}) can't be used: "
                f"{type(error).__name__}: {reason(error)}"
            ) from error
        if self.is_detectron2s:
            data["file_name"] = name
        return data

    def _map(self, record: dict[str, Any], image: Image.Image | None) -> dict[str, Any] | None:
        if image is None:
            return self.mapper(record)
        # detectron2's mapper reads a file, and nothing else.
        with tempfile.NamedTemporaryFile(suffix=".ppm") as file:
            image.save(file.name)
            return self.mapper(record | {"file_name": file.name})


class TrainLoader:
    """The batches of a detectron2 train loader, in an order that can be taken up anywhere.

    A batch follows from the seed, the process's rank and the number of batches before it alone: not
    from the number of workers, nor from where the iteration started.

    Attributes:
        start: the number of batches to leave out, when iteration begins.
    """

    def __init__(
        self,
        loader: Any,
        seed: int,
        on_bad_image: str = "stop",
        deep_images: str = "refuse",
    ):
        """
        Args:
            loader: of detectron2's ``build_detection_train_loader``, over a map-style data set.
            seed: at least 0; of augmentations. That of the order is the loader's sampler's.
            on_bad_image: "stop" raises at an image that can't be used; "replace" warns, and takes
                the next image of the data set in its place.
            deep_images: as of :func:`.images.read_image`.

        Raises:
            ConfigError: (a ValueError) if ``on_bad_image`` is none of them.
            TypeError: if the loader is of another kind.
        """
        if on_bad_image not in ON_BAD_IMAGE:
            raise ConfigError(
                "DATALOADER.ON_BAD_IMAGE (in a LazyConfig train.on_bad_image) must be 'stop' or "
                f"'replace', got {on_bad_image!r}"
            )
        grouped = isinstance(loader, AspectRatioGroupedDataset)
        batch_size = getattr(loader, "batch_size", None)
        if grouped:
            loader = loader.dataset
        images = getattr(loader, "dataset", None)
        if not isinstance(images, ToIterableDataset) or not isinstance(images.dataset, MapDataset):
            raise TypeError("only a loader over a map-style data set can be taken up anywhere")
        if not grouped and loader.collate_fn is not trivial_batch_collator:
            raise TypeError("a loader with a collate_fn of its own can't be taken up anywhere")
        self.start = 0
        self.sampler = images.sampler
        self.batch_size = batch_size
        records, mapper = _parts(images.dataset)
        mapper = CheckedMapper(mapper, deep_images)
        self.images = _SeededImages(records, mapper, seed, on_bad_image)
        self.grouped = grouped
        self.options = {
            name: getattr(loader, name) for name in ("num_workers", "prefetch_factor", "pin_memory")
        }

    def __iter__(self) -> Iterator[list[dict[str, Any]]]:
        """
        Raises:
            BadImage: as the mapper does, unless bad images are replaced.
        """
        batches = DataLoader(
            self.images,
            batch_sampler=itertools.islice(self._places(), self.start, None),
            collate_fn=list,
            # PyTorch draws the workers' seeds from it, rather than from what the model draws from.
            generator=torch.Generator(),
            **self.options,
        )
        for batch in batches:
            for image in batch:
                for message in image.messages:
                    logger.warning("%s. Another image takes its place.", message)
                if image.data is None:
                    raise BadImage(image.error)
            yield [image.data for image in batch]

    def _places(self) -> Iterator[list[tuple[int, int]]]:
        """The batches as (place in the order, index of the image)."""
        # As in AspectRatioGroupedDataset, but before an image is read.
        buckets = {True: [], False: []}
        records = self.images.records
        is_wide = functools.cache(lambda index: records[index]["width"] > records[index]["height"])
        for place, index in enumerate(self.sampler):
            bucket = buckets[self.grouped and is_wide(index)]
            bucket.append((place, index))
            if len(bucket) == self.batch_size:
                yield bucket[:]
                bucket.clear()


# These two are all of this package's data code that rests on private attributes of detectron2.
# There is no public way from a built loader to its parts, and only a built one can be had from YAML
# and from a LazyConfig alike, whatever they name. A test holds that the attributes are as meant.
def _parts(images: MapDataset) -> tuple[Sequence[dict[str, Any]], Mapper]:
    """The records of a train loader's images, and what maps them."""
    return images._dataset, images._map_func


def _unwrapped(mapper: Mapper) -> Mapper:
    """The mapper that a train loader has wrapped, to send it to worker processes."""
    return mapper._obj if isinstance(mapper, PicklableWrapper) else mapper


class _Sample(NamedTuple):
    # None if there is none.
    data: dict[str, Any] | None
    # Of the images that this one replaces.
    messages: list[str]
    # Why there is none.
    error: str = ""


class _SeededImages(Dataset):
    """Mapped images by (place in the order, index). Errors are returned: workers garble them."""

    def __init__(self, records: Sequence, mapper: Mapper, seed: int, on_bad_image: str):
        self.records, self.mapper = records, mapper
        self.seed, self.rank = seed, comm.get_rank()
        self.tries = 1 + (REPLACEMENTS if on_bad_image == "replace" else 0)

    def __getitem__(self, place_and_index: tuple[int, int]) -> _Sample:
        place, index = place_and_index
        messages = []
        for attempt in range(min(self.tries, len(self.records))):
            record = self.records[(index + attempt) % len(self.records)]
            with _seeded(seed_of(self.seed, self.rank, place)):
                try:
                    return _Sample(self.mapper(record), messages)
                except BadImage as error:
                    messages.append(str(error))
        if len(messages) == 1:
            return _Sample(None, [], messages[0])
        return _Sample(None, messages, f"{len(messages)} images in a row can't be used")


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seeds every generator that augmentations draw from, and puts it back as it was."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(seed)
    np.random.seed(seed)
    torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed GPUs, too
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
