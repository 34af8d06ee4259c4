"""The files that checkpoints are kept in, read without running anything that is in them.

A ``.pth`` or ``.pkl`` file is a pickle, which may ask for any function and call it. PyTorch's own
reader (``weights_only=True``) admits tensors and plain containers; what is added here is NumPy's
arrays, which are rebuilt from plain numbers. Naming NumPy's own functions wouldn't be enough: they
take the state of a dtype as it comes, and a forged one turns any bytes into Python objects.
"""

import json
import pickle
import tarfile
import types
from collections import OrderedDict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from enl_detectron2.utils.errors import UnsafeCheckpoint
from enl_detectron2.utils.files import whole_file
from enl_detectron2.utils.text import reason

# Where a file says which relation blocks its weights are of, by their names.
BLOCKS = "relation_blocks"
# And which objects they find, a list in the order of the model's classes.
CLASS_NAMES = "class_names"
# Under which keys other projects keep a model's state, in the order in which they are looked for.
WRAPPERS = ("model", "state_dict", "model_state_dict", "model_ema", "state_dict_ema")
# In the names of what torch.compile has wrapped, and PyTorch's AveragedModel counts.
COMPILED, AVERAGED = "_orig_mod", "n_averaged"
# Booleans, integers and floats of fixed size, as NumPy's pickles name them.
PLAIN_TYPES = ("b1", *(f"{kind}{size}" for kind in "iu" for size in (1, 2, 4, 8)), "f2", "f4", "f8")


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
        content = _read(path)
    except UnsafeCheckpoint as error:
        raise UnsafeCheckpoint(f"{path} is refused: it {error}") from None
    except ImportError:
        raise  # the package safetensors isn't there
    except Exception as error:  # a damaged file can raise anything
        raise UnsafeCheckpoint(
            f"{path} can't be read as a checkpoint, perhaps it was cut off "
            f"({type(error).__name__}: {reason(error)})"
        ) from error
    if not isinstance(content, dict):
        raise UnsafeCheckpoint(f"{path} is not a checkpoint: it holds a {type(content).__name__}")
    if path.suffix == ".pyth":
        # Batch norm's counts are no parameters for the matching of names.
        state = content.get("model_state", {}).items()
        state = {key: value for key, value in state if not key.endswith("num_batches_tracked")}
        return {"model": state, "__author__": "pycls", "matching_heuristics": True}
    for key in WRAPPERS:
        if isinstance(content.get(key), dict):
            # Beside a foreign model are things that only its own training understands.
            content = content if key == "model" else {"model": content[key]}
            break
    else:
        content = {"model": content}
    model = content["model"]
    for key, value in model.items():
        if isinstance(value, _Array):
            model[key] = np.asarray(value)
    rename(model, plain_names(model))
    model.pop(AVERAGED, None)
    return content


def plain_names(names: Iterable[Any]) -> dict[Any, str]:
    """The names of a model's own parameters and buffers, by those that it has inside wrappers.

    Args:
        names: from a ``state_dict``, perhaps of what ``torch.compile``, ``DataParallel``,
            ``DistributedDataParallel`` or ``AveragedModel`` has wrapped.
    """
    plain = {
        name: ".".join(part for part in str(name).split(".") if part != COMPILED) for name in names
    }
    own = [name for name in plain.values() if name != AVERAGED]
    if all(name.startswith("module.") for name in own):
        plain = {name: value.removeprefix("module.") for name, value in plain.items()}
    return plain


def rename(state: dict[str, Any], names: dict[str, str]) -> None:
    """Renames entries in place: PyTorch attaches the versions of its modules to the dict itself."""
    for old, new in names.items():
        if old != new and old in state:
            state[new] = state.pop(old)


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
        raise FileExistsError(f"{target} already exists")
    content = read_checkpoint(source)
    # Copies, as safetensors takes no two names for one memory.
    model = {
        key: torch.as_tensor(value).detach().clone().contiguous()
        for key, value in content["model"].items()
    }
    about = ("__author__", "matching_heuristics", BLOCKS, CLASS_NAMES)
    about = {key: content[key] for key in about if key in content}
    # A training may be saving into the same folder.
    with whole_file(target, f"{target.name}.unfinished") as file:
        if target.suffix == ".pth":
            torch.save({"model": model, **about}, file)
        else:
            from safetensors.torch import save

            texts = {k: v if isinstance(v, str) else json.dumps(v) for k, v in about.items()}
            file.write(save(model, texts))


def _read(path: Path) -> Any:
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    if path.suffix == ".pkl":
        with path.open("rb") as file:
            content = _Unpickler(file, encoding="latin1").load()
        if not isinstance(content, dict) or ("model" in content and "__author__" in content):
            return content
        # Caffe2's, as in detectron2's DetectionCheckpointer. ImageNet networks lack the key.
        blobs = content.get("blobs", content)
        blobs = {key: value for key, value in blobs.items() if not key.endswith("_momentum")}
        return {"model": blobs, "__author__": "Caffe2", "matching_heuristics": True}
    if tarfile.is_tarfile(path):  # PyTorch below 2.6 runs what is in them (CVE-2025-32434)
        raise UnsafeCheckpoint("has the tar format that PyTorch wrote until 2017")
    with torch.serialization.safe_globals([_named(name) for name in _ADMITTED]):
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            if names := _unsafe_names(path):
                raise _refusal(names) from error
            # PyTorch's own words advise to read it without weights_only.
            raise pickle.UnpicklingError(
                "no file of torch.save, or one of more than tensors and plain containers"
            ) from error


def _unsafe_names(path: Path) -> str:
    try:
        return ", ".join(sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path)))
    except Exception:  # PyTorch below 2.6 can't tell, nor can later ones of files before 1.6
        return ""


def _read_safetensors(path: Path) -> dict[str, Any]:
    from safetensors import safe_open

    with safe_open(path, framework="pt", device="cpu") as file:
        content = {"model": {key: file.get_tensor(key) for key in file.keys()}}  # noqa: SIM118
        metadata = file.metadata() or {}
    if "__author__" in metadata:
        content["__author__"] = metadata["__author__"]
    for key in ("matching_heuristics", BLOCKS, CLASS_NAMES):
        if key in metadata:
            content[key] = json.loads(metadata[key])
    return content


def _refusal(asked: str) -> UnsafeCheckpoint:
    return UnsafeCheckpoint(
        f"asks for {asked}; it may hold tensors, arrays and plain containers only, as anything "
        "else can run code. It was not loaded"
    )


class _Dtype:
    """Stands in for ``numpy.dtype``: a plain number and its byte order."""

    def __init__(self, name: Any, *_: Any):
        if name not in PLAIN_TYPES:
            raise _refusal(f"an array of the type {name!r}")
        self.dtype = np.dtype(name)

    def __setstate__(self, state: tuple) -> None:
        if state[1] in ("<", ">"):  # all else is of other types than plain numbers
            self.dtype = self.dtype.newbyteorder(state[1])


class _Array(np.ndarray):
    """Stands in for ``numpy.ndarray``."""

    __slots__ = ()  # a pickle can't set attributes

    def __new__(cls, *_: Any) -> "_Array":
        return super().__new__(cls, 0)

    def __setstate__(self, state: tuple) -> None:
        _, shape, dtype, by_columns, content = state
        array = _from_buffer(content, dtype, shape, "F" if by_columns else "C")
        super().__setstate__((1, shape, array.dtype, bool(by_columns), array.tobytes("A")))


def _from_buffer(content: Any, dtype: _Dtype, shape: Any, order: str = "C") -> np.ndarray:
    if type(dtype) is not _Dtype or not isinstance(content, (str, bytes, bytearray)):
        raise _refusal(f"an array of {dtype!r} from a {type(content).__name__}")
    # A text is Python 2's bytes, read as latin1.
    content = content.encode("latin1") if isinstance(content, str) else content
    array = np.frombuffer(content, dtype.dtype).reshape(shape, order=order)
    # A copy, which can be written to, in the machine's own byte order, as NumPy itself has it.
    return array.astype(dtype.dtype.newbyteorder("="))


def _reconstruct(*_: Any) -> _Array:
    return _Array()


def _scalar(dtype: _Dtype, content: Any = b"") -> np.generic:
    return _from_buffer(content, dtype, ())[()]


def _encode(text: str, encoding: str = "latin1") -> bytes:
    """How Python 3 writes bytes for Python 2. Other encodings would call codecs by name."""
    return text.encode("latin1")


def _no_bytes() -> bytes:
    """How Python 3 writes empty bytes for Python 2."""
    return b""


# All that arrays and plain containers need of a pickle.
_ADMITTED = {
    "collections.OrderedDict": OrderedDict,
    "_codecs.encode": _encode,
    "numpy.dtype": _Dtype,
    "numpy.ndarray": _Array,
    **{f"numpy.{core}.multiarray._reconstruct": _reconstruct for core in ("core", "_core")},
    **{f"numpy.{core}.multiarray.scalar": _scalar for core in ("core", "_core")},
    **{f"numpy.{core}.numeric._frombuffer": _from_buffer for core in ("core", "_core")},
    **{f"{module}.bytes": _no_bytes for module in ("builtins", "__builtin__")},
}


def _named(path: str) -> Callable:
    """The stand-in under its original's name, by which PyTorch goes; of a function a copy, as NumPy
    has moved them, and as a pickle can set attributes of what it gets."""
    thing, (module, _, name) = _ADMITTED[path], path.rpartition(".")
    if isinstance(thing, types.FunctionType):
        thing = types.FunctionType(thing.__code__, globals(), name, thing.__defaults__)
    if thing is not OrderedDict:
        thing.__module__, thing.__name__, thing.__qualname__ = module, name, name
    return thing


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if f"{module}.{name}" not in _ADMITTED or "." in name:
            raise _refusal(f"{module}.{name}")
        return _named(f"{module}.{name}")
