"""Files that are written whole or not at all."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from .errors import FileNotWritten


@contextlib.contextmanager
def whole_file(path: str | os.PathLike, unfinished_name: str | None = None) -> Iterator[BinaryIO]:
    """A file to write that has another name until all of it is on the disk.

    Whatever goes wrong meanwhile, what ``path`` was before stays as it is.

    Args:
        path: the file's name in the end.
        unfinished_name: until then, in the same folder; what a killed process leaves there is
            written over. By default a name of this process.

    Raises:
        FileNotWritten: (an OSError) if the file system refuses, as when the disk is full; names
            ``path`` and the reason.
    """
    path = Path(path)
    # A short name: the longest that the file system takes must stay possible for ``path``.
    unfinished = path.with_name(unfinished_name or f".{os.getpid()}.unfinished{path.suffix}")
    try:
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
    except (OSError, RuntimeError) as error:
        # PyTorch's writer has an error of its own for what the file system said before.
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, OSError):
            cause = cause.__context__
        # Other files, or a terminal, may be read and written in between.
        is_other = cause is None or cause.filename not in (None, str(unfinished))
        if is_other or isinstance(cause, BrokenPipeError):
            raise
        raise FileNotWritten(cause.errno, cause.strerror or str(cause), str(path)) from error
