"""Loading checkpoints, those of plain detectors among them, so that nothing is left out unsaid."""

import logging
from collections.abc import Sequence

from detectron2.checkpoint import DetectionCheckpointer
from torch import nn

from .modeling import relation_block_names


class ENLCheckpointer(DetectionCheckpointer):
    """detectron2's ``DetectionCheckpointer``, which says what fits and what doesn't.

    Two kinds are meant to lack something: a plain detector's checkpoint lacks the relation blocks,
    whose parameters are listed, and an ImageNet network's holds nothing but a bottom-up. Whatever
    else the model doesn't find is a warning when training goes on from there (other classes,
    another head), and an error when the model is used as it is.
    """

    def __init__(self, model: nn.Module, save_dir: str = "", *, complete: bool = False, **options):
        """
        Args:
            model: as of ``DetectionCheckpointer``, as are ``save_dir`` and ``options``.
            complete: whether the checkpoint must hold all of the model but its relation blocks.
        """
        super().__init__(model, save_dir, **options)
        self.complete = complete

    def _log_incompatible_keys(self, incompatible) -> None:
        """Reports what ``load`` has found.

        Raises:
            ValueError: if nothing of the checkpoint fits the model, or, with ``complete``, if the
                model lacks more than its relation blocks.
        """
        shapes = {
            key: f"{key}: {there} in the checkpoint, {here} in the model"
            for key, there, here in incompatible.incorrect_shapes
        }
        blocks = tuple(f"{name}." for name in relation_block_names(self.model))
        # A count, which only a batch norm without momentum reads; old checkpoints don't have it.
        missing = [k for k in incompatible.missing_keys if not k.endswith(".num_batches_tracked")]
        missing = [key for key in missing if key not in shapes]
        new = [key for key in missing if key.startswith(blocks)]
        missing = [key for key in missing if not key.startswith(blocks)]

        absent = {*incompatible.missing_keys, *shapes}
        # Not the buffers: batch norm makes those that an old checkpoint lacks.
        loaded = [key for key, _ in self.model.named_parameters() if key not in absent]
        if not loaded:
            raise ValueError("No parameter of the checkpoint fits this model: is it another one's?")
        if new:
            self.logger.log(
                # Used as they are, untrained blocks are hardly what was meant.
                logging.WARNING if self.complete else logging.INFO,
                "The relation blocks are new to the checkpoint. They start untrained:%s",
                _lines(new),
            )
        unused = _lines(incompatible.unexpected_keys)
        # A detector's checkpoint of which only the bottom-up fits is none of a bottom-up network.
        bottom_up_alone = all(_in_bottom_up(key) for key in [*loaded, *shapes]) and not any(
            key.startswith("backbone.") for key in incompatible.unexpected_keys
        )
        if bottom_up_alone and not self.complete:
            self.logger.info(
                "The checkpoint is a bottom-up network's: the rest of the model starts untrained."
            )
            missing = [key for key in missing if _in_bottom_up(key)]
            if unused:
                self.logger.info("Its own last layers are not used:%s", unused)
        elif unused:
            self.logger.warning(
                "THE CHECKPOINT HOLDS WHAT THE MODEL HAS NO PLACE FOR, so it is not used:%s", unused
            )
        lacks = [*missing, *shapes.values()]
        if lacks and self.complete:
            raise ValueError(
                f"The checkpoint does not fit: {len(lacks)} of the model's parameters and buffers "
                f"are not in it or have another shape there:{_lines(lacks)}"
            )
        if missing:
            self.logger.warning(
                "NOT IN THE CHECKPOINT, so these parts of the model start untrained:%s",
                _lines(missing),
            )
        if shapes:
            self.logger.warning(
                "ANOTHER SHAPE IN THE CHECKPOINT, so these parts of the model start untrained, as "
                "the predictors must when the number of classes has changed:%s",
                _lines(list(shapes.values())),
            )


def _in_bottom_up(key: str) -> bool:
    return "bottom_up" in key.split(".")


def _lines(entries: Sequence[str]) -> str:
    return "".join(f"\n  {entry}" for entry in entries)
