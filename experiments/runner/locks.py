"""Locks on files that last as long as a process that holds them, and no longer."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def lock(file: Path, *, wait: bool = False) -> Iterator[int | None]:
    """Holds a file's lock.

    Args:
        file: made if it isn't there, and never removed.
        wait: for as long as another process holds it.

    Yields:
        Its descriptor, None if another process holds the lock. Whoever inherits the descriptor
        keeps the lock, too: a training that outlives its runner still has its folder for itself.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    with open(file, "a") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield None
        else:
            yield stream.fileno()


def is_locked(file: Path) -> bool:
    """Whether a process holds the lock at this moment."""
    if not file.exists():
        return False
    with open(file) as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
