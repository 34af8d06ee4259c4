"""What goes wrong through no fault of the code, reported in a sentence instead of a traceback."""


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


class NonFinite(UserError, FloatingPointError):
    """A training step's loss, or a parameter after it, is infinite or not a number."""


class FileNotWritten(UserError, OSError):
    """A file could not be written; what was there before is as it was.

    Made of errno, reason and file name, as any OSError of a file.
    """

    def __str__(self) -> str:
        return f"{self.filename} can't be written: {self.strerror}"
