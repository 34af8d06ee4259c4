"""Checkpoints: from anyone, of plain detectors too, and whole whatever happens while saving.

A ``.pkl`` or ``.pth`` file is a pickle, which can run any code when it is loaded. Here nothing but
tensors, arrays and plain containers is.
"""

import contextlib
import logging
import os
import pickle
import re
import tarfile
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.checkpoint import DetectionCheckpointer
from torch import nn

from .errors import CheckpointNotSaved, ConfigError, MissingFile, NonFinite, UnsafeCheckpoint
from .modeling import relation_block_names

# A file under this name is what a killed process was writing; the next save writes over it.
UNFINISHED = "checkpoint.unfinished"


class ENLCheckpointer(DetectionCheckpointer):
    """detectron2's ``DetectionCheckpointer``, which is safe, and says what fits and what doesn't.

    Files are read by :func:`read_checkpoint`, ``.safetensors`` among them. A checkpoint gets its
    name when all of it is on the disk, and ``last_checkpoint`` names it after that, so that a
    process can be killed at any moment.

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
        with self._explain_failure(path), _whole_file(path) as file:
            torch.save(content | kwargs, file)
        self.tag_last_checkpoint(path.name)

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        path = Path(self.save_dir, "last_checkpoint")
        with self._explain_failure(path), _whole_file(path) as file:
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


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """What a checkpoint holds, without running anything that is in it.

    Args:
        path: a local ``.pkl`` (detectron2's model zoo, Caffe2), ``.pyth`` (pycls), ``.safetensors``
            or, with any other ending, a file of ``torch.save``.

    Returns:
        "model": parameters and buffers by name, tensors or arrays; and what else is in the file.
        With "matching_heuristics" the names are another library's.

    Raises:
        UnsafeCheckpoint: (a ValueError) if it holds anything but tensors, arrays and plain
            containers, or isn't a whole file of its kind; nothing of it is used.
        OSError: if there is no such file.
    """
    path = Path(path)
    path.open("rb").close()  # whether it's there; what is raised from here on is about its content
    try:
        if path.suffix == ".pkl":
            return _named(_read_pickle(path))
        if path.suffix == ".safetensors":
            return _read_safetensors(path)
        content = _read_torch(path)
    except UnsafeCheckpoint:
        raise
    except Exception as error:  # a damaged file can raise anything
        reason = (str(error).splitlines() or [""])[0]
        raise UnsafeCheckpoint(
            f"{path} can't be read as a checkpoint, perhaps it was cut off "
            f"({type(error).__name__}: {reason})"
        ) from error
    if not isinstance(content, dict):
        raise UnsafeCheckpoint(f"{path} is no checkpoint: it holds a {type(content).__name__}")
    if path.suffix == ".pyth":
        # Batch norm's counts are no parameters for the matching of names.
        state = content.get("model_state", {}).items()
        state = {key: value for key, value in state if not key.endswith("num_batches_tracked")}
        return {"model": state, "__author__": "pycls", "matching_heuristics": True}
    return content if "model" in content else {"model": content}


def convert_checkpoint(source: str | Path, target: str | Path) -> None:
    """Writes the model of a checkpoint, without the state of its training, in another format.

    Args:
        source: as of :func:`read_checkpoint`.
        target: a new ``.safetensors`` or ``.pth`` file.

    Raises:
        ValueError: if the target has another ending; or as :func:`read_checkpoint` does.
        FileExistsError: if the target is there.
    """
    target = Path(target)
    if target.suffix not in (".safetensors", ".pth"):
        raise ValueError(f"{target} must end in .safetensors or .pth")
    if target.exists():
        raise FileExistsError(f"{target} is there already")
    content = read_checkpoint(source)
    # Copies, as safetensors takes no two names for one memory.
    model = {
        key: torch.as_tensor(value).detach().clone().contiguous()
        for key, value in content["model"].items()
    }
    origin = {key: content[key] for key in ("__author__", "matching_heuristics") if key in content}
    # A training may be saving into the same folder.
    with _whole_file(target, f"{target.name}.unfinished") as file:
        if target.suffix == ".pth":
            torch.save({"model": model, **origin}, file)
        else:
            file.write(_safetensors().save(model, {k: str(v) for k, v in origin.items()}))


# How arrays and scalars are rebuilt. NumPy has moved these functions between its versions.
_ARRAY, _BUFFER, _SCALAR = (
    value.__reduce_ex__(protocol)[0]
    for value, protocol in ((np.zeros(1), 2), (np.zeros(1), 5), (np.float64(0), 2))
)
# All that arrays and plain containers need of a pickle.
_PICKLED = {
    ("collections", "OrderedDict"): OrderedDict,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    # How Python 3 writes bytes for Python 2. Other encodings than this one call codecs by name.
    ("_codecs", "encode"): lambda text, encoding="latin1": text.encode("latin1"),
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _ARRAY for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "scalar"): _SCALAR for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): _BUFFER for core in ("core", "_core")},
}


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _PICKLED:
            raise _refusal(f"{module}.{name}")
        return _PICKLED[module, name]


def _refusal(asked: str) -> UnsafeCheckpoint:
    return UnsafeCheckpoint(
        f"asks for {asked}; a checkpoint may hold tensors, arrays and plain containers only, as "
        "anything else can run code. It was not loaded"
    )


def _read_pickle(path: Path) -> Any:
    with path.open("rb") as file:
        try:
            return _ArrayUnpickler(file, encoding="latin1").load()
        except UnsafeCheckpoint as error:
            raise UnsafeCheckpoint(f"{path} is refused: it {error}") from None


def _named(content: Any) -> dict[str, Any]:
    """The two kinds of ``.pkl`` as one, see detectron2's ``DetectionCheckpointer``."""
    if "model" in content and "__author__" in content:
        return content
    blobs = content.get("blobs", content)  # ImageNet networks don't have the key
    blobs = {key: value for key, value in blobs.items() if not key.endswith("_momentum")}
    return {"model": blobs, "__author__": "Caffe2", "matching_heuristics": True}


def _read_torch(path: Path) -> Any:
    if tarfile.is_tarfile(path):
        # Old versions of PyTorch run what is in them (CVE-2025-32434).
        raise UnsafeCheckpoint(
            f"{path} is refused: it has the tar format that PyTorch wrote until 2017"
        )
    arrays = contextlib.nullcontext()
    if hasattr(torch.serialization, "safe_globals"):  # PyTorch 2.5
        arrays = torch.serialization.safe_globals(
            [np.ndarray, np.dtype, *(type(np.dtype(code)) for code in "?bhilBHILefd")]
            + [_ARRAY, _SCALAR]
        )
    try:
        with arrays:
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        asked = re.search(r"GLOBAL (\S+)", str(error))
        if asked is None:
            raise
        raise UnsafeCheckpoint(f"{path} is refused: it {_refusal(asked[1])}") from None


def _read_safetensors(path: Path) -> dict[str, Any]:
    _safetensors()
    from safetensors import safe_open

    with safe_open(path, framework="pt", device="cpu") as file:
        content = {"model": {key: file.get_tensor(key) for key in file.keys()}}  # noqa: SIM118
        origin = file.metadata() or {}
    if "__author__" in origin:
        content["__author__"] = origin["__author__"]
    if origin.get("matching_heuristics") == "True":
        content["matching_heuristics"] = True
    return content


def _safetensors():
    try:
        import safetensors.torch
    except ImportError:
        raise UnsafeCheckpoint(
            "a .safetensors file needs the package safetensors: pip install safetensors"
        ) from None
    return safetensors.torch


@contextlib.contextmanager
def _whole_file(path: Path, unfinished_name: str = UNFINISHED) -> Iterator[Any]:
    """A file to write that gets its name once all of it is on the disk."""
    unfinished = path.with_name(unfinished_name)
    try:
        with unfinished.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    except BaseException:
        with contextlib.suppress(OSError):
            unfinished.unlink()
        raise


def _in_bottom_up(key: str) -> bool:
    return "bottom_up" in key.split(".")


def _lines(entries: Sequence[str]) -> str:
    return "".join(f"\n  {entry}" for entry in entries)
