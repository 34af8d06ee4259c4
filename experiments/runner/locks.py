"""Locks on files that last as long as a process that holds them, and no longer."""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PROBE_LASTS = 2.0  # seconds; is_locked() holds a lock for far less


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
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        yield descriptor if _taken(descriptor, None if wait else PROBE_LASTS) else None
    finally:
        os.close(descriptor)


def _taken(descriptor: int, seconds: float | None) -> bool:
    if seconds is None:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        return True
    until = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() > until:
                return False
            time.sleep(0.05)


def is_locked(file: Path) -> bool:
    """Whether a process holds the lock at this moment."""
    if not file.exists():
        return False
    descriptor = os.open(file, os.O_RDWR)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False
