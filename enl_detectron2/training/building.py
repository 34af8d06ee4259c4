"""Building what a configuration describes: detectron2's own errors in one line, and the log."""

import contextlib
import logging
import logging.handlers
import sys
from collections.abc import Callable, Iterator

from enl_detectron2.utils.errors import ConfigError, UserError, summarize

LOGGERS = ("detectron2", "fvcore", "enl_detectron2")

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def building(
    part: str, config_file: str, explain: Callable[[], None] = lambda: None
) -> Iterator[None]:
    """Turns what goes wrong in building a part into one sentence.

    Args:
        part: of the run, as "the model".
        config_file: which describes it.
        explain: raises a ``ConfigError`` if it knows what is wrong; called after an error.

    Raises:
        ConfigError: (a ValueError) with the other library's error as its cause.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # whatever any model, optimizer or mapper raises
        logger.debug("%s can't be built", part, exc_info=True)
        explain()
        raise ConfigError(
            f"{config_file or 'the configuration'}: {part} can't be built: {summarize(error)}"
        ) from error


class EarlyLog:
    """Shows what is logged before there is a log file, and writes it there as soon as there is.

    Nothing is written before all is built, but what building says, such as how many objects the
    data have, belongs into ``log.txt``.
    """

    def __init__(self):
        self._held = {
            name: logging.handlers.MemoryHandler(sys.maxsize, flushLevel=sys.maxsize)
            for name in LOGGERS
        }
        self._shown = logging.StreamHandler(sys.stdout)
        self._shown.setLevel(logging.INFO)
        self._before = {name: list(logging.getLogger(name).handlers) for name in LOGGERS}

    def __enter__(self) -> "EarlyLog":
        for name, before in self._before.items():
            log = logging.getLogger(name)
            log.setLevel(logging.DEBUG)
            log.addHandler(self._held[name])
            if not before:
                log.addHandler(self._shown)
        return self

    def write(self) -> None:
        """Gives what was logged to the loggers' new handlers but those of the terminal."""
        for name, held in self._held.items():
            records, held.buffer = held.buffer, []
            for handler in logging.getLogger(name).handlers:
                is_old = handler in (*self._before[name], held, self._shown)
                if is_old or getattr(handler, "stream", None) is sys.stdout:
                    continue
                for record in records:
                    if record.levelno >= handler.level:
                        handler.handle(record)

    def __exit__(self, *exception: object) -> None:
        for name, held in self._held.items():
            logging.getLogger(name).removeHandler(held)
            logging.getLogger(name).removeHandler(self._shown)
