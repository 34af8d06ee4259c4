"""What goes wrong through no fault of the code, reported in a sentence instead of a traceback."""


class UserError(ValueError):
    """Something that whoever started the run can put right; the message says what and how."""


class ConfigError(UserError):
    """A value of the configuration is wrong, or a file that it names; the message names the key."""


class MissingFile(ConfigError, FileNotFoundError):
    """A file or folder that the configuration names isn't there."""


class BadImage(UserError):
    """An image can't be used; the message names its file and id."""


class UnsafeCheckpoint(UserError):
    """A checkpoint is damaged, or holds more than tensors, arrays and plain containers."""


class FileNotWritten(OSError, UserError):
    """A file could not be written; what was there before is as it was.

    Made of errno, reason and file name, as any OSError of a file.
    """

    def __str__(self) -> str:
        return f"{self.filename} can't be written: {self.strerror}"
