"""Checkpoints: from anyone, of plain detectors too, and whole whatever happens while saving."""

import contextlib
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from detectron2.checkpoint import DetectionCheckpointer
from torch import nn

from enl_detectron2.modeling import relation_blocks

from .checkpoint_files import read_checkpoint, whole_file
from .errors import CheckpointNotSaved, ConfigError, MissingFile, NonFinite

# A file under this name is what a killed process was writing; the next save writes over it.
UNFINISHED = "checkpoint.unfinished"


class ENLCheckpointer(DetectionCheckpointer):
    """detectron2's ``DetectionCheckpointer``, which is safe, and says what fits and what doesn't.

    Files are read by :func:`.checkpoint_files.read_checkpoint`, ``.safetensors`` among them. A
    checkpoint gets its name when all of it is on the disk, and ``last_checkpoint`` names it after
    that, so that a process can be killed at any moment.

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

    def load(self, path: str, checkpointables: list[str] | None = None) -> dict[str, Any]:
        """As of ``DetectionCheckpointer``.

        Raises:
            ConfigError: (a ValueError) if there is no path, though the model is used as it is; or
                as :meth:`_log_incompatible_keys`.
        """
        if self.complete and not path:
            raise ConfigError(
                "MODEL.WEIGHTS is empty (in a LazyConfig train.init_checkpoint): it must name the "
                "weights of a trained model"
            )
        return super().load(path, checkpointables)

    def save(self, name: str, **kwargs: Any) -> None:
        """As of ``DetectionCheckpointer``; the file appears whole or not at all.

        Raises:
            CheckpointNotSaved: (an OSError) if it can't be written, as when the disk is full.
            NonFinite: if a parameter isn't finite: what training goes on from must be sound.
        """
        if not self.save_dir or not self.save_to_disk:
            return
        for key, parameter in self.model.named_parameters():
            if not torch.isfinite(parameter).all():
                last = self.get_checkpoint_file()
                raise NonFinite(
                    f"{name}.pth is not saved, as the parameter {key} is not finite any more; "
                    + (f"the last checkpoint is {last}" if last else "there is none before it")
                )
        content = {"model": self.model.state_dict()}
        content |= {key: part.state_dict() for key, part in self.checkpointables.items()}
        path = Path(self.save_dir, f"{name}.pth")
        self.logger.info("Saving checkpoint to %s", path)
        with self._explain_failure(path), whole_file(path, UNFINISHED) as file:
            torch.save(content | kwargs, file)
        self.tag_last_checkpoint(path.name)

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        path = Path(self.save_dir, "last_checkpoint")
        with self._explain_failure(path), whole_file(path, UNFINISHED) as file:
            file.write(last_filename_basename.encode())

    @contextlib.contextmanager
    def _explain_failure(self, path: Path) -> Iterator[None]:
        try:
            yield
        except (OSError, RuntimeError) as error:
            # PyTorch's writer has an error of its own for what the file system said before.
            cause = error
            while cause is not None and not isinstance(cause, OSError):
                cause = cause.__context__
            if cause is None:
                raise
            last = self.get_checkpoint_file()
            kept = f"the last whole one is {last}" if last else "there is none before it"
            raise CheckpointNotSaved(
                f"the checkpoint {path} could not be written ({cause.strerror or cause}); {kept}"
            ) from error

    def resume_or_load(self, path: str, *, resume: bool = True) -> dict[str, Any]:
        """As of ``DetectionCheckpointer``.

        Raises:
            MissingFile: (a FileNotFoundError) if what ``last_checkpoint`` names isn't there.
        """
        if resume and self.has_checkpoint() and not Path(self.get_checkpoint_file()).is_file():
            raise MissingFile(
                f"{Path(self.save_dir, 'last_checkpoint')} names {self.get_checkpoint_file()}, "
                "which isn't there: write another checkpoint's name into it, or don't resume"
            )
        return super().resume_or_load(path, resume=resume)

    def _load_file(self, filename: str) -> dict[str, Any]:
        if Path(filename).suffix in (".pkl", ".pyth"):
            return read_checkpoint(filename)
        return super()._load_file(filename)  # which reads the options in a URL

    def _torch_load(self, f: str) -> dict[str, Any]:
        return read_checkpoint(f)

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
        blocks = tuple(f"{name}." for name in relation_blocks(self.model))
        # A count, which only a batch norm without momentum reads; old checkpoints don't have it.
        missing = [k for k in incompatible.missing_keys if not k.endswith(".num_batches_tracked")]
        missing = [key for key in missing if key not in shapes]
        new = [key for key in missing if key.startswith(blocks)]
        missing = [key for key in missing if not key.startswith(blocks)]

        absent = {*incompatible.missing_keys, *shapes}
        # Not the buffers: batch norm makes those that an old checkpoint lacks.
        loaded = [key for key, _ in self.model.named_parameters() if key not in absent]
        if not loaded:
            raise ConfigError(
                "No parameter of the checkpoint fits this model: is it another one's?"
            )
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
            raise ConfigError(
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
