"""Checkpoints: from anyone, of plain detectors too, and whole whatever happens while saving."""

import contextlib
import inspect
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import numpy as np
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.utils.file_io import PathManager
from torch import Tensor, nn

from enl_detectron2.modeling import relation_blocks
from enl_detectron2.modeling.enl_fpn import ENL_FPN, rename_old_blocks
from enl_detectron2.utils.errors import (
    CheckpointNotSaved,
    ConfigError,
    MissingFile,
    NonFinite,
    UnsafeCheckpoint,
)
from enl_detectron2.utils.files import whole_file

from .checkpoint_files import BLOCKS, plain_names, read_checkpoint, rename

# A file under this name is what a killed process was writing; the next save writes over it.
UNFINISHED = "checkpoint.unfinished"
# What options of position terms were called before they stood apart, and are today.
OLD_POSITION_OPTIONS = {"num_frequencies": "num_frequencies", "l1_scale": "scale"}


def find_weights(path: str) -> str:
    """The local file of what ``MODEL.WEIGHTS`` names, which is fetched if it is a URL.

    Raises:
        MissingFile: (a FileNotFoundError) if there is none; one sentence.
    """
    # detectron2 lets options follow the name.
    name = urlparse(path)._replace(query="").geturl()
    key = "MODEL.WEIGHTS (in a LazyConfig train.init_checkpoint)"
    try:
        file = PathManager.get_local_path(name)
    # Whatever the network or a handler of such names raises.
    except Exception as error:
        said = (str(error).splitlines() or [""])[0]
        raise MissingFile(
            f"{key}: {path!r} can't be fetched ({type(error).__name__}: {said})"
        ) from error
    if not Path(file).is_file():
        is_folder = "is a folder, not a file" if Path(file).is_dir() else "doesn't exist"
        raise MissingFile(f"{key}: {path!r} {is_folder}")
    return file


class ENLCheckpointer(DetectionCheckpointer):
    """detectron2's ``DetectionCheckpointer``, which is safe, and says what fits and what doesn't.

    Files are read by :func:`.checkpoint_files.read_checkpoint`, ``.safetensors`` among them. A
    checkpoint gets its name when all of it is on the disk, and ``last_checkpoint`` names it after
    that, so that a process can be killed at any moment.

    Two kinds are meant to lack something: a plain detector's checkpoint lacks the relation blocks,
    whose parameters are listed, and an ImageNet network's holds nothing but a bottom-up. Whatever
    else the model doesn't find is a warning when training goes on from there (other classes,
    another head), and an error when the model is used as it is.

    Names are those of the model itself, in memory and on the disk, whatever ``torch.compile`` has
    wrapped.

    It overrides four methods without public names, ``_load_file``, ``_torch_load``, ``_load_model``
    and ``_log_incompatible_keys``: they are the steps that fvcore's ``Checkpointer`` has for its
    subclasses, and detectron2's own overrides them. A test holds that ``load`` takes these steps.
    """

    def __init__(self, model: nn.Module, save_dir: str = "", *, complete: bool = False, **options):
        """
        Args:
            model: as of ``DetectionCheckpointer``, as are ``save_dir`` and ``options``.
            complete: whether the checkpoint must hold all of the model but its relation blocks.
        """
        super().__init__(model, save_dir, **options)
        self.complete = complete
        # Those that are meant to be, such as a mask of -inf.
        self._infinite = {key for key, value in self.model.named_buffers() if not _is_finite(value)}

    def load(self, path: str, checkpointables: list[str] | None = None) -> dict[str, Any]:
        """As of ``DetectionCheckpointer``.

        Raises:
            ConfigError: (a ValueError) if there is no path, though the model is used as it is; or
                as :meth:`_log_incompatible_keys`.
            MissingFile: (a FileNotFoundError) if there is no such file.
            UnsafeCheckpoint: (a ValueError) if it is no sound checkpoint.
        """
        if self.complete and not path:
            raise ConfigError(
                "MODEL.WEIGHTS is empty (in a LazyConfig train.init_checkpoint): it must name the "
                "weights of a trained model"
            )
        if path:
            find_weights(path)
        return super().load(path, checkpointables)

    def about_model(self) -> dict[str, Any]:
        """What a checkpoint says of its model beside its parameters, by keys of the file.

        The kinds and options of the relation blocks: different ones have parameters of the same
        names and shapes.
        """
        return {BLOCKS: _blocks(self.model)}

    def check_about_model(self, checkpoint: dict[str, Any]) -> None:
        """Compares what a checkpoint says of its model with this one, before anything is loaded.

        Args:
            checkpoint: all of the file; another project's has none of the keys.

        Raises:
            ConfigError: (a ValueError) if its blocks' parameters mean something else in this model,
                which is used as it is; where training goes on from them this is a warning.
        """
        here = _blocks(self.model)
        stored = checkpoint.get(BLOCKS)
        stored = dict(stored) if isinstance(stored, dict) else {}
        _rename_old_blocks(self.model, stored)
        parts = relation_blocks(self.model)
        parts = {name: parts[key] for key, name in plain_names(parts).items()}
        for name, there in stored.items():
            if name not in here or not isinstance(there, dict):
                continue
            there = _as_today(there, parts[name])
            if there == here[name]:
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
            CheckpointNotSaved: (an OSError) if it can't be written, as when the disk is full.
            NonFinite: if a parameter or buffer isn't finite any more: what training goes on from
                must be sound.
        """
        if not self.save_dir or not self.save_to_disk:
            return
        state = self.model.state_dict()
        for key, value in state.items():
            if isinstance(value, Tensor) and not _is_finite(value) and key not in self._infinite:
                last = self.get_checkpoint_file()
                raise NonFinite(
                    f"{name}.pth is not saved, as {key} is no longer finite; "
                    + (f"the last checkpoint is {last}" if last else "there is none before it")
                )
        rename(state, plain_names(state))
        content = {"model": state, **self.about_model()}
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
                "which doesn't exist: write another checkpoint's name into it, or don't resume"
            )
        return super().resume_or_load(path, resume=resume)

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
        self._strip_prefix(checkpoint["model"], set(names.values()))
        _rename_old_blocks(self.model, checkpoint["model"])
        rename(checkpoint["model"], {plain: name for name, plain in names.items()})
        try:
            return super()._load_model(checkpoint)
        except RuntimeError as error:  # of tensors that can't be copied, as those without values
            said = " ".join(str(error).split())
            raise UnsafeCheckpoint(f"the checkpoint can't be loaded: {said}") from error

    def _strip_prefix(self, state: dict[str, Any], names: set[str]) -> None:
        """Takes off what other projects put before all names, as "student.", if the rest fits."""
        first = next(iter(state), "").split(".")
        if not state or names & state.keys():
            return
        for length in range(1, len(first)):
            prefix = ".".join(first[:length]) + "."
            if not all(key.startswith(prefix) for key in state):
                return
            stripped = {key: key.removeprefix(prefix) for key in state}
            trial = dict.fromkeys(stripped.values())
            _rename_old_blocks(self.model, trial)
            if names & trial.keys():
                rename(state, stripped)
                self.logger.info("All names in the checkpoint begin with %r, left out here", prefix)
                return

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
                "The model has no place for a part of the checkpoint, which is not used:%s", unused
            )
        lacks = [*missing, *shapes.values()]
        if lacks and self.complete:
            raise ConfigError(
                f"The checkpoint does not fit: {len(lacks)} of the model's parameters and buffers "
                f"are not in it or have another shape there:{_lines(lacks)}"
            )
        if missing:
            self.logger.warning(
                "Not in the checkpoint, so these parts of the model start untrained:%s",
                _lines(missing),
            )
        if shapes:
            self.logger.warning(
                "Of another shape in the checkpoint, so these parts of the model start untrained, "
                "as the predictors must when the number of classes has changed:%s",
                _lines(list(shapes.values())),
            )


def _is_finite(value: Tensor) -> bool:
    if value.is_quantized:
        return True
    if value.is_floating_point() and value.element_size() == 1:
        value = value.float()  # PyTorch doesn't tell it of 8 bits
    return bool(torch.isfinite(value).all())


def _blocks(model: nn.Module) -> dict[str, dict[str, Any]]:
    """Kind and options of each relation block that has parameters, by its name."""
    blocks = {
        name: {"block": type(block).__name__, **block.options()}
        for name, block in relation_blocks(model).items()
        if next(block.parameters(), None) is not None
    }
    for name, block in relation_blocks(model).items():
        for option in block.init_options:  # of which nothing is left after the first step
            blocks.get(name, {}).pop(option, None)
    names = plain_names(blocks)
    return {names[name]: options for name, options in blocks.items()}


def _as_today(stored: dict[str, Any], block: nn.Module) -> dict[str, Any]:
    """What a checkpoint says of a block as :func:`_blocks` says it of ``block``.

    Options that the file lacks count as the signature's defaults. Before version 0.2 the options of
    position terms stood beside the others, under names of their own.
    """
    stored = dict(stored)
    if stored.get("block") != type(block).__name__:
        return stored  # another kind: nothing else is comparable
    parameters = inspect.signature(type(block)).parameters
    if "position_options" in parameters and not isinstance(stored.get("position_options"), dict):
        old = {today: stored.get(was) for was, today in OLD_POSITION_OPTIONS.items()}
        own = getattr(block, "position_options", None) or {}
        # A term of today's that the model hasn't shows in ``position``.
        stored["position_options"] = own | {k: v for k, v in old.items() if k in own and v}
    for name in (*OLD_POSITION_OPTIONS, *block.init_options):
        if name not in parameters or name in block.init_options:
            stored.pop(name, None)
    defaults = {name: one.default for name, one in parameters.items()}
    for name, value in block.options().items():
        if name in block.init_options or name in stored:
            continue
        # Such as a width of half the channels, which no block keeps as None.
        stored[name] = (
            value if defaults[name] in (None, inspect.Parameter.empty) else defaults[name]
        )
    return stored


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


def _in_bottom_up(key: str) -> bool:
    return "bottom_up" in key.split(".")


def _lines(entries: Sequence[str]) -> str:
    return "".join(f"\n  {entry}" for entry in entries)
