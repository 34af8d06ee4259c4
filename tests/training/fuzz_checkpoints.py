"""Damages checkpoint files at random, and reads them; a process of its own, as a reader may crash.

python fuzz_checkpoints.py HOW_MANY FOLDER
"""

import gc
import io
import pickle
import resource
import sys
from collections import OrderedDict
from pathlib import Path

import numpy as np
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from enl_detectron2.training.checkpoint_files import read_checkpoint
from enl_detectron2.utils.errors import UnsafeCheckpoint

MEMORY = 16 * 2**30  # bytes of addresses: a file that claims more ends in a MemoryError
ARRAYS = {
    "weight": np.arange(6, dtype=np.float32).reshape(2, 3),
    "fortran": np.asfortranarray(np.ones((2, 2))),
    "big endian": np.arange(3, dtype=">i4"),
    "flag": np.array([True]),
    "scalar": np.float64(3),
}


class Asks:
    """Pickled as a call with a state, whatever they are."""

    def __init__(self, *call):
        self.call = call

    def __reduce__(self):
        return self.call


def array_of(dtype, shape=(1,), content=b"AAAAAAAA"):
    rebuild = np.zeros(1).__reduce__()[0]
    return Asks(rebuild, (np.ndarray, (0,), b"b"), (1, shape, dtype, False, content))


def forged():
    """States that NumPy takes as they come."""
    objects = Asks(np.dtype, ("O8", False, True))
    fields = ("|", None, ("a",), {"a": (objects, 0)}, 8, 1, 27)
    yield array_of(Asks(np.dtype, ("V8", False, True), (3, *fields)))
    yield array_of(objects)
    for flags in (1, 2, 4, 8, 63):
        state = (3, "<", None, None, None, -1, -1, flags)
        yield array_of(Asks(np.dtype, ("f8", False, True), state))
    plain = np.dtype("f8")
    yield array_of(plain, (10**12,))
    yield array_of(plain, (-1,))
    yield array_of(plain, (2**62, 4))
    yield Asks(np.zeros(1).__reduce__()[0], (np.ndarray, (10**12,), b"f8"))


def seeds():
    """(ending, content) of files to be damaged."""
    states = [ARRAYS, OrderedDict(ARRAYS), *({"a": evil} for evil in forged())]
    for state in states:
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
            content = {"model": state, "__author__": "somebody"}
            yield ".pkl", pickle.dumps(content, protocol)
        for as_zip in (True, False):
            file = io.BytesIO()
            content = {"model": {"tensor": torch.ones(2, 2), **state}}
            torch.save(content, file, _use_new_zipfile_serialization=as_zip)
            yield ".pth", file.getvalue()


SEEDS = list(seeds())
# Pieces that mean something to the reader.
PIECES = [
    *(bytes([code]) for code in b"(.0123FGIJKLMNPQRSTUVXabcdeghijlopqrstu}]){\x80\x81\x85\x86\x87"),
    *(bytes([code]) for code in b"\x88\x89\x8a\x8b\x8c\x8d\x8e\x8f\x90\x91\x92\x93\x94\x95\x96"),
    b"O8",
    b"V8",
    b"f8",
    b"r\xff\xff\xff\x7f",
    b"cnumpy\ndtype\n",
    b"cnumpy\nndarray\n",
    b"cnumpy.core.multiarray\n_reconstruct\n",
    b"cnumpy.core.multiarray\nscalar\n",
    b"cnumpy.core.numeric\n_frombuffer\n",
    b"ccollections\nOrderedDict\n",
    b"c_codecs\nencode\n",
    b"\x85" * 300,
    b"\xff\xff\xff\xff",
    b"\x00\x00\x00\x00",
]
EDITS = st.lists(
    st.tuples(
        st.sampled_from(["replace", "insert", "delete", "repeat", "cut"]),
        st.floats(0, 1, exclude_max=True),
        st.sampled_from(PIECES) | st.binary(min_size=1, max_size=4),
    ),
    max_size=6,
)


def damaged(content, edits):
    for kind, where, piece in edits:
        place = int(where * len(content))
        if kind == "cut":
            content = content[: place + 1]
        else:
            kept = 0 if kind == "insert" else len(piece)
            inserted = b"" if kind == "delete" else piece
            if kind == "repeat":
                inserted, kept = content[place : place + 16] * 2, 16
            content = content[:place] + inserted + content[place + kept :]
    return content


def read(path):
    try:
        content = read_checkpoint(path)
    except UnsafeCheckpoint as error:
        assert str(path) in str(error) and str(error).isprintable(), str(error)
        return
    assert isinstance(content, dict)
    for value in content["model"].values() if isinstance(content["model"], dict) else ():
        if isinstance(value, np.ndarray):
            assert value.dtype.kind in "biuf" and type(value) is np.ndarray
            value.sum()
    # What was forged would come apart here.
    del content
    gc.collect(0)


def main(how_many, folder):
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    for number, (ending, content) in enumerate(SEEDS):
        path = Path(folder, f"seed {number}{ending}")
        path.write_bytes(content)
        read(path)

    @settings(
        max_examples=how_many,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.sampled_from(SEEDS), EDITS)
    def fuzz(seed, edits):
        ending, content = seed
        path = Path(folder, f"damaged{ending}")
        path.write_bytes(damaged(content, edits))
        read(path)

    fuzz()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
