"""Checkpoints: from anyone, of plain detectors too, and whole whatever happens while saving."""

import inspect
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.checkpoint import DetectionCheckpointer
from torch import Tensor, nn

from enl_detectron2.modeling import relation_blocks
from enl_detectron2.modeling.enl_fpn import ENL_FPN, rename_old_blocks
from enl_detectron2.utils.errors import ConfigError, MissingFile, UnsafeCheckpoint, UserError
from enl_detectron2.utils.files import whole_file

from .checkpoint_files import BLOCKS, CLASS_NAMES, plain_names, read_checkpoint, rename

# A file under this name is what a killed process was writing; the next save writes over it.
UNFINISHED = "checkpoint.unfinished"


class ENLCheckpointer(DetectionCheckpointer):
    """detectron2's ``DetectionCheckpointer``, which is safe, and says what fits and what doesn't.

    Files are read by :func:`.checkpoint_files.read_checkpoint`, ``.safetensors`` among them. A
    checkpoint gets its name when all of it is on the disk, and ``last_checkpoint`` names it after
    that, so that a process can be killed at any moment.

    A plain detector's checkpoint is meant to lack the relation blocks, whose parameters are listed.
    Whatever else the model doesn't find is a warning of detectron2's when training goes on from
    there (other classes, another head), and an error when the model is used as it is.

    Names are those of the model itself, in memory and on the disk, whatever ``torch.compile`` has
    wrapped.

    It overrides four methods without public names, ``_load_file``, ``_torch_load``, ``_load_model``
    and ``_log_incompatible_keys``: they are the steps that fvcore's ``Checkpointer`` has for its
    subclasses, and detectron2's own overrides them. A test holds that ``load`` takes these steps.
    """

    def __init__(
        self,
        model: nn.Module,
        save_dir: str = "",
        *,
        complete: bool = False,
        class_names: Sequence[str] = (),
        **options,
    ):
        """
        Args:
            model: as of ``DetectionCheckpointer``, as are ``save_dir`` and ``options``.
            complete: whether the checkpoint must hold all of the model but its relation blocks.
            class_names: of the objects it learns, which are saved beside the parameters, or is
                tested on; a checkpoint that has them in another order is warned of.
        """
        super().__init__(model, save_dir, **options)
        self.complete, self.class_names = complete, list(class_names)
        # Those that are meant to be, such as a mask of -inf.
        self._infinite = {key for key, value in self.model.named_buffers() if not _is_finite(value)}

    def load(self, path: str, checkpointables: list[str] | None = None) -> dict[str, Any]:
        """As of ``DetectionCheckpointer``.

        Raises:
            ConfigError: (a ValueError) if there is no path, though the model is used as it is; or
                as :meth:`_log_incompatible_keys`.
            MissingFile: (a FileNotFoundError) if there is no such file.
            UnsafeCheckpoint: (a ValueError) if it is no sound checkpoint, or one that isn't finite
                is to be used as it is.
        """
        if self.complete and not path:
            raise ConfigError(
                "MODEL.WEIGHTS is empty (in a LazyConfig train.init_checkpoint): it must name the "
                "weights of a trained model"
            )
        file = Path(path.partition("?")[0])  # detectron2 lets options follow the name
        if path and "://" not in path and not file.is_file():
            raise MissingFile(
                f"{file} {'is a folder' if file.is_dir() else 'is not there'}: MODEL.WEIGHTS (in a "
                "LazyConfig train.init_checkpoint) or, with --resume, the folder's last_checkpoint "
                "must name a checkpoint"
            )
        content = super().load(path, checkpointables)
        if self.complete and (key := self._not_finite()):
            raise UnsafeCheckpoint(f"{path}: {key} holds values that are infinite or no numbers")
        return content

    def _not_finite(self) -> str | None:
        """A parameter or buffer of the model that is no longer finite, if there is one."""
        for key, value in self.model.state_dict().items():
            if isinstance(value, Tensor) and not _is_finite(value) and key not in self._infinite:
                return key
        return None

    def about_model(self) -> dict[str, Any]:
        """What a checkpoint says of its model beside its parameters, by keys of the file.

        The kinds and options of the relation blocks: different ones have parameters of the same
        names and shapes. The names of the classes, if they are known.
        """
        names = {CLASS_NAMES: self.class_names} if self.class_names else {}
        return {BLOCKS: _blocks(self.model), **names}

    def check_about_model(self, checkpoint: dict[str, Any]) -> None:
        """Compares what a checkpoint says of its model with this one, before anything is loaded.

        Args:
            checkpoint: all of the file; another project's has none of the keys.

        Raises:
            ConfigError: (a ValueError) if its blocks' parameters mean something else in this model,
                or it lacks the blocks, and is used as it is; in training this is a warning.
        """
        there = [str(name) for name in checkpoint.get(CLASS_NAMES) or ()]
        places = {name: place for place, name in enumerate(self.class_names)}
        moved = [name for at, name in enumerate(there) if places.get(name, at) != at]
        if moved:
            self.logger.warning(
                "The checkpoint has its classes in another order, so that %r and others count as "
                "something else: %s in the checkpoint, %s in the data set",
                moved[0],
                ", ".join(there),
                ", ".join(self.class_names),
            )
        blocks, here = relation_blocks(self.model), _blocks(self.model)
        stored = checkpoint.get(BLOCKS)
        stored = dict(stored) if isinstance(stored, dict) else {}
        _rename_old_blocks(self.model, stored)
        lacking = [name for name in stored if name not in here]
        if lacking and self.complete:  # or another detector's AP would come out
            raise ConfigError(
                f"the model lacks {len(lacking)} relation blocks of the checkpoint, the first of "
                f"them {lacking[0]}: MODEL.BACKBONE.NAME and MODEL.ENL_FPN (in a LazyConfig "
                "model.backbone) must be those of the weights"
            )
        for key, name in plain_names(blocks).items():
            there = stored.get(name)
            if name not in here or not isinstance(there, dict) or _is_alike(there, blocks[key]):
                continue
            message = (
                f"the checkpoint's {name} is {_words(there)}, the model's is {_words(here[name])}: "
                "MODEL.ENL_FPN.BLOCK and BLOCK_OPTIONS (in a LazyConfig block and block_options) "
                "must be those of the weights"
            )
            if self.complete:
                raise ConfigError(message)
            self.logger.warning("The same names, but another block: %s", message)

    def save(self, name: str, **kwargs: Any) -> None:
        """As of ``DetectionCheckpointer``; the file appears whole or not at all.

        Raises:
            FileNotWritten: (an OSError) if it can't be written, as when the disk is full.
            UserError: (a ValueError) if a parameter or buffer isn't finite any more: what training
                goes on from must be sound.
        """
        if not self.save_dir or not self.save_to_disk:
            return
        if key := self._not_finite():
            last = self.get_checkpoint_file()
            raise UserError(
                f"{name}.pth is not saved, as {key} is no longer finite; "
                + (f"the last checkpoint is {last}" if last else "there is none before it")
            )
        state = self.model.state_dict()
        rename(state, plain_names(state))
        content = {"model": state, **self.about_model()}
        content |= {key: part.state_dict() for key, part in self.checkpointables.items()}
        path = Path(self.save_dir, f"{name}.pth")
        self.logger.info("Saving checkpoint to %s", path)
        with whole_file(path, UNFINISHED) as file:
            torch.save(content | kwargs, file)
        self.tag_last_checkpoint(path.name)

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        path = Path(self.save_dir, "last_checkpoint")
        with whole_file(path, UNFINISHED) as file:
            file.write(last_filename_basename.encode())

    def _load_file(self, filename: str) -> dict[str, Any]:
        if Path(filename).suffix in (".pkl", ".pyth"):
            content = read_checkpoint(filename)
        else:
            content = super()._load_file(filename)  # which reads the options in a URL
        for key, value in content["model"].items():
            if not isinstance(value, (Tensor, np.ndarray)):
                raise UnsafeCheckpoint(
                    f"{filename} is not a model's checkpoint: its {key!r} is a "
                    f"{type(value).__name__}, not a tensor or an array"
                )
        self.check_about_model(content)
        return content

    def _torch_load(self, f: str) -> dict[str, Any]:
        return read_checkpoint(f)

    def _load_model(self, checkpoint: dict[str, Any]) -> Any:
        names = plain_names(self.model.state_dict())
        _rename_old_blocks(self.model, checkpoint["model"])
        rename(checkpoint["model"], {plain: name for name, plain in names.items()})
        return super()._load_model(checkpoint)

    def _log_incompatible_keys(self, incompatible) -> None:
        """Reports what ``load`` has found.

        Raises:
            ConfigError: (a ValueError) if nothing of the checkpoint fits the model, or, with
                ``complete``, if the model lacks more than its relation blocks.
        """
        shapes = {key: (there, here) for key, there, here in incompatible.incorrect_shapes}
        absent = {*incompatible.missing_keys, *shapes}
        # Not the buffers: batch norm makes those that an old checkpoint lacks.
        if all(key in absent for key, _ in self.model.named_parameters()):
            raise ConfigError(
                "No parameter of the checkpoint fits this model: is it another one's?"
            )
        blocks = tuple(f"{name}." for name in relation_blocks(self.model))
        # A count, which only a batch norm without momentum reads; old checkpoints don't have it.
        missing = [k for k in incompatible.missing_keys if not k.endswith(".num_batches_tracked")]
        missing = [key for key in missing if key not in shapes]
        new = [key for key in missing if key.startswith(blocks)]
        if new:
            self.logger.log(
                # Used as they are, untrained blocks are hardly what was meant.
                logging.WARNING if self.complete else logging.INFO,
                "The relation blocks are new to the checkpoint. They start untrained:%s",
                _lines(new),
            )
        missing = [key for key in missing if not key.startswith(blocks)]
        lacks = missing + [
            f"{key}: {there} in the checkpoint, {here} in the model"
            for key, (there, here) in shapes.items()
        ]
        if lacks and self.complete:
            raise ConfigError(
                f"The checkpoint does not fit: {len(lacks)} of the model's parameters and buffers "
                f"are not in it or have another shape there:{_lines(lacks)}"
            )
        super()._log_incompatible_keys(incompatible._replace(missing_keys=missing))


def _is_finite(value: Tensor) -> bool:
    if value.is_quantized:
        return True
    if value.is_floating_point() and value.element_size() == 1:
        value = value.float()  # PyTorch doesn't tell it of 8 bits
    return bool(torch.isfinite(value).all())


def _blocks(model: nn.Module) -> dict[str, dict[str, Any]]:
    """Kind and options of each relation block that has parameters, by its name.

    Not the options of which nothing is left after the first step.
    """
    blocks = {
        name: {"block": type(block).__name__}
        | {key: v for key, v in block.options().items() if key not in block.init_options}
        for name, block in relation_blocks(model).items()
        if next(block.parameters(), None) is not None
    }
    names = plain_names(blocks)
    return {names[name]: options for name, options in blocks.items()}


def _is_alike(stored: dict[str, Any], block: nn.Module) -> bool:
    """Whether what a checkpoint says of a block's kind and options is so of ``block``.

    An option that the file lacks counts as the signature's default.
    """
    if stored.get("block") != type(block).__name__:
        return False
    parameters = inspect.signature(type(block)).parameters
    for name, value in block.options().items():
        # A default of None, as of a width, is no value that a block keeps.
        default = parameters[name].default
        there = stored.get(name, value if default in (None, inspect.Parameter.empty) else default)
        if there != value and name not in block.init_options:
            return False
    return True


def _rename_old_blocks(model: nn.Module, names: dict[str, Any]) -> None:
    """Renames what is in a pyramid's blocks in place, before detectron2 matches names."""
    parts = dict(model.named_modules())
    for name, plain in plain_names(parts).items():
        if isinstance(parts[name], ENL_FPN):
            rename_old_blocks(parts[name], names, f"{plain}." if plain else "")


def _words(options: dict[str, Any]) -> str:
    """ "ENLBlock(position='cos_add', …)"."""
    given = ", ".join(f"{name}={value!r}" for name, value in options.items() if name != "block")
    return f"{options.get('block')}({given})"


def _lines(entries: Sequence[str]) -> str:
    return "".join(f"\n  {entry}" for entry in entries)
