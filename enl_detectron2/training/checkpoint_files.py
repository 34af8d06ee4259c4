"""The files that checkpoints are kept in: read without running them, written whole or not at all.

A ``.pkl`` or ``.pth`` file is a pickle, which can run any code when it is loaded. Here nothing but
tensors, arrays and plain containers is.
"""

import io
import json
import tarfile
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from enl_detectron2.utils.errors import UnsafeCheckpoint
from enl_detectron2.utils.files import whole_file

from .pickles import (
    check_stream,
    full_name,
    line,
    read_pickle,
    refusal,
    stand_ins,
    without_stand_ins,
)

# Where a file says which relation blocks its weights are of, by their names.
BLOCKS = "relation_blocks"
# Under which keys other projects keep a model's state, in the order in which they are looked for.
WRAPPERS = ("model", "state_dict", "model_state_dict", "model_ema", "state_dict_ema")
# In the names of what torch.compile has wrapped, and PyTorch's AveragedModel counts.
COMPILED, AVERAGED = "_orig_mod", "n_averaged"
# Of what isn't its own, under the names that Python 2 and 3 have for it.
PYTORCH_ADMITS = {
    "collections.OrderedDict",
    "collections.Counter",
    "_codecs.encode",
    *(
        f"{module}.{name}"
        for module in ("builtins", "__builtin__")
        for name in ("bytearray", "set", "complex")
    ),
}
LEGACY_PICKLES = 5  # that torch.save put one after the other before it wrote zip files


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
        if path.suffix == ".safetensors":
            content = _read_safetensors(path)
        elif path.suffix == ".pkl":
            content = _named(read_pickle(path.read_bytes()))
        else:
            content = _read_torch(path)
    except UnsafeCheckpoint as error:
        raise UnsafeCheckpoint(f"{path} is refused: it {line(error)}") from None
    except Exception as error:  # a damaged file can raise anything
        reason = line((str(error).splitlines() or [""])[0])
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
    for key in WRAPPERS:
        if isinstance(content.get(key), dict):
            # Beside a foreign model are things that only its own training understands.
            content = content if key == "model" else {"model": content[key]}
            break
    else:
        content = {"model": content}
    rename(content["model"], plain_names(content["model"]))
    content["model"].pop(AVERAGED, None)
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
        raise FileExistsError(f"{target} is there already")
    content = read_checkpoint(source)
    # Copies, as safetensors takes no two names for one memory.
    model = {
        key: torch.as_tensor(value).detach().clone().contiguous()
        for key, value in content["model"].items()
    }
    about = ("__author__", "matching_heuristics", BLOCKS)
    about = {key: content[key] for key in about if key in content}
    # A training may be saving into the same folder.
    with whole_file(target, f"{target.name}.unfinished") as file:
        if target.suffix == ".pth":
            torch.save({"model": model, **about}, file)
        else:
            metadata = {key: _as_text(value) for key, value in about.items()}
            file.write(_safetensors().save(model, metadata))


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _named(content: Any) -> Any:
    """The two kinds of ``.pkl`` as one, see detectron2's ``DetectionCheckpointer``."""
    if not isinstance(content, dict) or ("model" in content and "__author__" in content):
        return content
    blobs = content.get("blobs", content)  # ImageNet networks don't have the key
    blobs = {key: value for key, value in blobs.items() if not key.endswith("_momentum")}
    return {"model": blobs, "__author__": "Caffe2", "matching_heuristics": True}


def _read_torch(path: Path) -> Any:
    if tarfile.is_tarfile(path):
        # Old versions of PyTorch run what is in them (CVE-2025-32434).
        raise UnsafeCheckpoint("has the tar format that PyTorch wrote until 2017")
    with torch.serialization.safe_globals(stand_ins()):
        admitted = {full_name(thing) for thing in torch.serialization.get_safe_globals()}
        for asked in _check_torch_pickles(path):
            # What PyTorch admits beside is PyTorch's to decide.
            if asked not in admitted | PYTORCH_ADMITS and not asked.startswith("torch."):
                raise refusal(asked)
        return without_stand_ins(torch.load(path, map_location="cpu", weights_only=True))


def _check_torch_pickles(path: Path) -> list[str]:
    """Follows the pickles of ``torch.save``; returns what they ask for."""
    size, asked = path.stat().st_size, []
    if not zipfile.is_zipfile(path):
        with path.open("rb") as file:
            for _ in range(LEGACY_PICKLES):
                asked += check_stream(file, size)
        return asked
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            if not member.filename.endswith(".pkl"):
                continue
            if member.file_size > size:  # PyTorch doesn't compress
                raise UnsafeCheckpoint(f"asks for {member.file_size:,} bytes, but has {size:,}")
            asked += check_stream(io.BytesIO(archive.read(member)), size)
    return asked


def _read_safetensors(path: Path) -> dict[str, Any]:
    _safetensors()
    from safetensors import safe_open

    with safe_open(path, framework="pt", device="cpu") as file:
        content = {"model": {key: file.get_tensor(key) for key in file.keys()}}  # noqa: SIM118
        metadata = file.metadata() or {}
    if "__author__" in metadata:
        content["__author__"] = metadata["__author__"]
    for key in ("matching_heuristics", BLOCKS):
        if key in metadata:
            content[key] = json.loads(metadata[key])
    return content


def _safetensors():
    try:
        import safetensors.torch
    except ImportError:
        raise UnsafeCheckpoint("needs the package safetensors: pip install safetensors") from None
    return safetensors.torch
