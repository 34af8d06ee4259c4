"""The files that checkpoints are kept in: read without running them, written whole or not at all.

A ``.pkl`` or ``.pth`` file is a pickle, which can run any code when it is loaded. Here nothing but
tensors, arrays and plain containers is.
"""

import contextlib
import pickle
import re
import tarfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .errors import UnsafeCheckpoint
from .files import whole_file


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
    with whole_file(target, f"{target.name}.unfinished") as file:
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
