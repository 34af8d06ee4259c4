"""What goes wrong through no fault of the code, reported in a sentence instead of a traceback."""

import traceback
from pathlib import Path

LONGEST = 600  # characters of another library's message


class UserError(Exception):
    """Something that whoever started the run can put right; the message says what and how."""


class ConfigError(UserError, ValueError):
    """A value of the configuration is wrong, or a file that it names; the message names the key."""


class MissingFile(ConfigError, FileNotFoundError):
    """A file or folder that the configuration names isn't there."""


class BadImage(UserError, ValueError):
    """An image can't be used; the message names its file and id."""


class UnsafeCheckpoint(UserError, ValueError):
    """A checkpoint is damaged, or holds more than tensors, arrays and plain containers."""


class CheckpointNotSaved(UserError, OSError):
    """A checkpoint could not be written; the ones before it are whole."""


class NonFinite(UserError, FloatingPointError):
    """A training step's loss, or a parameter after it, is infinite or not a number."""


class FileNotWritten(UserError, OSError):
    """A file could not be written; what was there before is as it was.

    Made of errno, reason and file name, as any OSError of a file.
    """

    def __str__(self) -> str:
        return f"{self.filename} can't be written: {self.strerror}"


def summarize(error: Exception) -> str:
    """An exception of another library in one line, with the place if it says too little itself."""
    message = " ".join(str(error.args[0] if len(error.args) == 1 else error).split())
    if len(message) > LONGEST:
        message = f"{message[:LONGEST]}…"
    said = f"{type(error).__name__}: {message}" if message else type(error).__name__
    frames = traceback.extract_tb(error.__traceback__)
    if frames and isinstance(error, (AssertionError, AttributeError, LookupError, RecursionError)):
        said += f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno}: {frames[-1].line})"
    return said
