"""Checkpoint files: untrusted, damaged, half written, and in other formats."""

import os
import pickle
import resource
import signal
from collections import OrderedDict
from unittest import mock

import numpy as np
import pytest
import torch
from torch import nn

from enl_detectron2.training.checkpoint import UNFINISHED, ENLCheckpointer
from enl_detectron2.training.checkpoint_files import convert_checkpoint, read_checkpoint
from enl_detectron2.training.trainer import Trainer
from enl_detectron2.utils.errors import FileNotWritten, MissingFile, UnsafeCheckpoint, UserError


class Malicious:
    """Runs code when it is unpickled, as anyone's file could, by nothing but a builtin."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return eval, (f"open({str(self.mark)!r}, 'w')",)


@pytest.mark.parametrize("name", ["model.pkl", "model.pth", "old.pth"])
def test_a_file_that_runs_code_is_refused_and_runs_nothing(tmp_path, name):
    path, mark = tmp_path / name, tmp_path / "was run"
    content = {"model": {"weight": np.zeros(1), "bias": Malicious(mark)}, "__author__": "somebody"}
    if name == "model.pkl":
        path.write_bytes(pickle.dumps(content, protocol=2))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=name == "model.pth")
    with pytest.raises(UnsafeCheckpoint, match=f"{name} .*(asks for \\S*eval; |more than tensors)"):
        ENLCheckpointer(nn.Linear(1, 1)).load(str(path))
    assert not mark.exists()
    # The attack is a real one.
    with path.open("rb") as file:
        pickle.load(file) if name == "model.pkl" else torch.load(file, weights_only=False)
    assert mark.exists()


def test_other_ways_into_the_unpickler_are_closed(tmp_path):
    for module, name in (("builtins", "getattr"), ("numpy", "load"), ("_codecs", "decode")):
        path = tmp_path / "sneaky.pkl"
        path.write_bytes(f"c{module}\n{name}\n.".encode())
        with pytest.raises(UnsafeCheckpoint, match=f"asks for {module}.{name}; "):
            read_checkpoint(path)
    # Nor by a type of arrays whose bytes would become Python objects.
    for kind in ("V8", "O"):
        path.write_bytes(pickle.dumps({"model": {"a": np.zeros(1, kind)}}, 2))
        with pytest.raises(UnsafeCheckpoint, match=f"asks for an array of the type '{kind}"):
            read_checkpoint(path)
    # Not even through a dotted name, which newer pickles look up by attributes.
    path.write_bytes(b"\x80\x04\x8c\x05numpy\x8c\x0endarray.tofile\x93.")
    with pytest.raises(UnsafeCheckpoint, match="asks for numpy.ndarray.tofile"):
        read_checkpoint(path)


@pytest.mark.parametrize("name", ["model.pkl", "model.pth", "model.safetensors"])
def test_a_damaged_file_is_named(tmp_path, name):
    ENLCheckpointer(nn.Linear(50, 50), str(tmp_path)).save("whole")
    half = (tmp_path / "whole.pth").read_bytes()[:4000]
    path = tmp_path / name
    for content in (b"", b"\x80\x04}", half):
        path.write_bytes(content)
        with pytest.raises(UnsafeCheckpoint, match=f"{name} can't be read as a checkpoint"):
            read_checkpoint(path)


def test_python_2s_pickles_are_read(tmp_path):
    # np.float32([1]) as Python 2 with NumPy 1 wrote it, in Caffe2's layout.
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR"
        b"(I1\n(I1\ntcnumpy\ndtype\n(S'f4'\nI0\nI1\ntR(I3\nS'<'\nNNNI-1\nI-1\nI0\ntbI00\n"
        b"S'\\x00\\x00\\x80?'\ntb"
    )
    path = tmp_path / "R-50.pkl"
    path.write_bytes(b"(dS'blobs'\n(dS'conv1_w'\n" + array + b"sS'conv1_w_momentum'\nI0\nss.")
    read = read_checkpoint(path)
    assert read["__author__"] == "Caffe2" and read["matching_heuristics"]
    assert list(read["model"]) == ["conv1_w"] and read["model"]["conv1_w"].tolist() == [1]


def test_safetensors_there_and_back(tmp_path, slim_cfg):
    model = Trainer.build_model(slim_cfg)
    ENLCheckpointer(model, str(tmp_path)).save("model", iteration=3)
    convert_checkpoint(tmp_path / "model.pth", tmp_path / "model.safetensors")
    convert_checkpoint(tmp_path / "model.safetensors", tmp_path / "again.pth")
    for name in ("model.safetensors", "again.pth"):
        other = Trainer.build_model(slim_cfg)
        ENLCheckpointer(other, complete=True).load(str(tmp_path / name))
        for key, value in model.state_dict().items():
            assert torch.equal(other.state_dict()[key], value), key
    assert "iteration" not in read_checkpoint(tmp_path / "again.pth")
    assert not list(tmp_path.glob("*unfinished"))
    with pytest.raises(FileExistsError, match="again.pth already exists"):
        convert_checkpoint(tmp_path / "model.pth", tmp_path / "again.pth")
    with pytest.raises(ValueError, match="model.onnx must end in .safetensors or .pth"):
        convert_checkpoint(tmp_path / "model.pth", tmp_path / "model.onnx")


def test_another_librarys_names_are_still_known_as_such(tmp_path):
    content = {"blobs": {"conv1_w": np.ones(2, dtype=np.float32), "bn": np.ones((2, 2)).T}}
    (tmp_path / "R-50.pkl").write_bytes(pickle.dumps(content))
    convert_checkpoint(tmp_path / "R-50.pkl", tmp_path / "R-50.safetensors")
    read = read_checkpoint(tmp_path / "R-50.safetensors")
    assert read["matching_heuristics"] is True and read["__author__"] == "Caffe2"
    torch.save({"model_state": {"weight": torch.ones(1)}}, tmp_path / "model.pyth")  # pycls'
    assert read_checkpoint(tmp_path / "model.pyth")["matching_heuristics"]


def test_resuming_from_a_file_that_is_gone_is_an_error(tmp_path):
    (tmp_path / "last_checkpoint").write_text("model_0000009.pth")
    checkpointer = ENLCheckpointer(nn.Linear(1, 1), str(tmp_path))
    with pytest.raises(MissingFile, match="model_0000009.pth is not there: .* last_checkpoint"):
        checkpointer.resume_or_load("", resume=True)


def saved(folder):
    """What a resumed run would go on from."""
    checkpointer = ENLCheckpointer(nn.Linear(1, 1), str(folder))
    return read_checkpoint(checkpointer.get_checkpoint_file())["iteration"]


def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)


def write_half(content, file):
    file.write(b"half a checkpoint")
    file.flush()
    die()


def replace_once(*paths, replace=os.replace, done=[]):  # noqa: B006
    if done:
        die()
    done.append(paths)
    replace(*paths)


MOMENTS = {
    "writing": ("torch.save", write_half),
    "renaming": ("os.replace", die),
    "tagging": ("enl_detectron2.training.checkpoint.ENLCheckpointer.tag_last_checkpoint", die),
    "renaming the tag": ("os.replace", replace_once),
}


@pytest.mark.parametrize(
    "moment, name",
    [*((moment, "model_1") for moment in MOMENTS), ("writing", "model_0"), ("tagging", "model_0")],
)
def test_killed_while_saving(tmp_path, moment, name):
    """Whatever the moment, and even if the file is one that was there: a whole one is left."""
    checkpointer = ENLCheckpointer(nn.Linear(1, 1), str(tmp_path))
    checkpointer.save("model_0", iteration=0)
    child = os.fork()
    if child == 0:
        where, what = MOMENTS[moment]
        with mock.patch(where, what):
            checkpointer.save(name, iteration=1)
        os._exit(0)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    replaced = name == "model_0" and moment in ("tagging", "renaming the tag")
    assert saved(tmp_path) == (1 if replaced else 0)
    # The next one works, and leaves nothing behind.
    checkpointer.save("model_2", iteration=2)
    assert saved(tmp_path) == 2
    assert not (tmp_path / UNFINISHED).exists()


def test_a_full_disk_leaves_the_last_checkpoint(tmp_path):
    model = nn.Linear(400, 400)  # 641 kB
    checkpointer = ENLCheckpointer(model, str(tmp_path))
    checkpointer.save("model_0", iteration=0)
    whole = (tmp_path / "model_0.pth").read_bytes()
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        for name in ("model_1", "model_0"):
            with pytest.raises(
                FileNotWritten, match=f"{name}.pth can't be written: File too large"
            ):
                checkpointer.save(name, iteration=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    assert (tmp_path / "model_0.pth").read_bytes() == whole
    assert saved(tmp_path) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last_checkpoint", "model_0.pth"]


@pytest.mark.parametrize("key, value", [("1.weight", np.inf), ("1.running_var", np.nan)])
def test_a_broken_model_is_not_saved(tmp_path, key, value):
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    model.register_buffer("mask", torch.full((2,), -float("inf")))  # from the start, which may be
    model.register_buffer("small", torch.zeros(2).to(torch.float8_e4m3fn))
    checkpointer = ENLCheckpointer(model, str(tmp_path))
    checkpointer.save("model_0", iteration=0)
    with torch.no_grad():
        model.state_dict()[key][1] = value
    with pytest.raises(UserError, match=f"model_1.pth is not saved, as {key} is .*model_0.pth"):
        checkpointer.save("model_1", iteration=1)
    assert saved(tmp_path) == 0 and not (tmp_path / "model_1.pth").exists()
    # Nor is one that comes from elsewhere used.
    torch.save({"model": model[:2].state_dict()}, tmp_path / "other.pth")
    fresh = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    with pytest.raises(UnsafeCheckpoint, match=f"other.pth: {key} holds values that are infinite"):
        ENLCheckpointer(fresh, complete=True).load(str(tmp_path / "other.pth"))


@pytest.mark.parametrize("protocol", [0, 2, pickle.HIGHEST_PROTOCOL, None])
def test_plain_arrays_come_back_as_they_were(tmp_path, protocol):
    numbers = np.arange(12).reshape(3, 4)
    arrays = {code: numbers.astype(code) for code in ("?", "i1", "<i2", ">i8", "<u4", ">f2", "<f4")}
    arrays["fortran"], arrays["strided"] = np.asfortranarray(arrays["<f4"]), arrays["<f4"][:, ::2]
    arrays["empty"], arrays["single"] = np.zeros((0, 3)), np.array(3.0)
    path = tmp_path / ("model.pkl" if protocol is not None else "model.pth")
    others = {"count": np.int64(3), "name": b"\xe4", "none": b"", "list": [1, None]}
    content = OrderedDict(model=arrays, __author__="someone", shared=[arrays["<f4"]], **others)
    if protocol is not None:
        path.write_bytes(pickle.dumps(content, protocol))
    else:
        torch.save(content, path)
    read = read_checkpoint(path)
    for key, value in arrays.items():
        found = read["model"][key]
        assert type(found) is np.ndarray and np.array_equal(found, value), key
        assert found.dtype == value.dtype.newbyteorder("=") and found.flags.writeable
    assert np.array_equal(read["shared"][0], arrays["<f4"])
    assert {key: read[key] for key in others} == others


def test_a_file_can_not_change_the_reader(tmp_path):
    """BUILD sets attributes of what is on the stack, which may be what the file asked for."""
    path = tmp_path / "model.pkl"
    for name in ("numpy\ndtype", "_codecs\nencode"):
        state = b"(N}X\x0c\x00\x00\x00__defaults__(X\x05\x00\x00\x00utf-8tsX\x06\x00\x00\x00marked"
        path.write_bytes(b"\x80\x02c" + name.encode() + b"\n" + state + b"K\x01st" + b"b.")
        with pytest.raises(UnsafeCheckpoint):
            read_checkpoint(path)
    test_plain_arrays_come_back_as_they_were(tmp_path, 2)
