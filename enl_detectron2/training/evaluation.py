"""How trained models look at photographs: whole or in tiles, with a word at their limit."""

import contextlib
import functools
import logging
from collections.abc import Callable, Iterator
from typing import Any

from detectron2.config import CfgNode
from detectron2.utils import comm
from omegaconf import DictConfig, OmegaConf
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from enl_detectron2.tiling import TiledDetector

from .data.images import read_image

# For COCO's evaluator: tiles together give more detections than a model's limit, and all count.
MOST_IN_TILES = 100_000

logger = logging.getLogger(__name__)


def tile_of(cfg: CfgNode | DictConfig) -> int:
    """The side of the tiles that a configuration wants, in pixels; 0 for whole photographs."""
    if isinstance(cfg, CfgNode):
        return cfg.TEST.get("TILE", 0)
    return OmegaConf.select(cfg, "train.tile", default=0)


def in_tiles(
    model: nn.Module, tile: int, mapper: Callable[..., Any], deep_images: str
) -> nn.Module:
    """The model, or where ``tile`` is above 0 a ``TiledDetector`` of it.

    Args:
        model: of detectron2.
        tile: of :func:`tile_of`.
        mapper: of detectron2's test loader, whose resizing is done to each tile.
        deep_images: what to do with files of more than 8 bits a channel, of ``deep_images_of``.
    """
    if tile <= 0:
        return model
    return TiledDetector(
        model,
        tile,
        augmentations=[mapper.augmentations],
        image_format=mapper.image_format,
        read_image=functools.partial(read_image, deep_images=deep_images),
    )


class Limit:
    """Notes which photographs give as many detections as a model allows, whole or in a tile.

    A context manager: it looks at what the model gives as long as it is open. ``files`` are the
    photographs' names, each once.
    """

    def __init__(self, model: nn.Module, score_threshold: float = 0.0):
        """
        Args:
            model: of detectron2, not tiled.
            score_threshold: detections below are left out anyway, so that they hide no others.
        """
        self.model = model.module if isinstance(model, DistributedDataParallel) else model
        self.score_threshold = score_threshold
        predictor = getattr(getattr(self.model, "roi_heads", None), "box_predictor", None)
        if isinstance(predictor, nn.ModuleList):  # a cascade's
            predictor = predictor[-1]
        # What detectron2 makes of TEST.DETECTIONS_PER_IMAGE; None if the model doesn't say.
        self.number = getattr(predictor, "test_topk_per_image", None) or getattr(
            self.model, "max_detections_per_image", None
        )
        self.files: dict[str, None] = {}

    def __enter__(self) -> "Limit":
        self._handle = self.model.register_forward_hook(self._note)
        return self

    def __exit__(self, *_: Any) -> None:
        self._handle.remove()

    def _note(self, _: nn.Module, arguments: tuple, outputs: Any) -> None:
        for record, output in zip(arguments[0], outputs):
            if self.number and "instances" in output:
                found = output["instances"].scores >= self.score_threshold
                if found.sum() >= self.number:
                    self.files[record.get("file_name") or "an image"] = None

    def warning(self, tile: int) -> str:
        """What to do about ``files``, in a sentence."""
        first, *others = self.files
        named = first + (f" and {len(others)} more" if others else "")
        where, remedy = ("", "use --tile PIXELS (TEST.TILE)")
        if tile > 0:
            where, remedy = (" in a tile", "use smaller tiles")
        return (
            f"{named} gave {self.number} detections{where}, as many as the limit allows, so there "
            "may be more objects: raise TEST.DETECTIONS_PER_IMAGE (in a LazyConfig of R-CNN "
            f"model.roi_heads.box_predictor.test_topk_per_image), or {remedy}"
        )


@contextlib.contextmanager
def evaluated(
    model: nn.Module, tile: int, mapper: Callable[..., Any], deep_images: str
) -> Iterator[nn.Module]:
    """The model to evaluate, of :func:`in_tiles`; the end of it warns where the limit was met."""
    with Limit(model) as limit:
        yield in_tiles(model, tile, mapper, deep_images)
    for files in comm.gather(limit.files):
        limit.files |= files
    if limit.files:
        logger.warning("%s", limit.warning(tile))
