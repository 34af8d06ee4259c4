"""How all commands of this project start and end."""

import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from .errors import UserError

MOST_CHARACTERS = 1000  # of a message: names can have thousands


def run(main: Callable[[], None]) -> None:
    """Runs a command; whatever ends it early is reported in one line on standard error.

    What the user can put right ends with status 2, as argparse's own errors do; Ctrl-C with 130;
    a reader of the output that stops early, such as ``head``, silently with 141. An error that
    isn't the user's keeps its traceback. Characters that the terminal doesn't have are escaped.

    Args:
        main: the command. What takes long to import is best imported in it: then Ctrl-C meanwhile
            is one line, too.
    """
    hear_ctrl_c()
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # None where there is no terminal at all
            stream.reconfigure(errors="backslashreplace")
    try:
        status = _status(main)
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:
        _discard_output()
        status = 128 + signal.SIGPIPE
    except OSError as error:  # of standard output, as all others have been reported
        _discard_output()
        status = _explain(error)
    if status:
        sys.exit(status)


def hear_ctrl_c() -> None:
    """From here on Ctrl-C is a KeyboardInterrupt; until here it has ended a command silently."""
    if threading.current_thread() is threading.main_thread():  # others can't say what it does
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _status(main: Callable[[], None]) -> int | str | None:
    try:
        main()
    except SystemExit as stop:
        return stop.code
    except KeyboardInterrupt:
        print(f"{_program()}: interrupted", file=sys.stderr)
        return 128 + signal.SIGINT
    except BrokenPipeError:
        raise
    except MemoryError:
        return _explain("there is not enough memory")
    except (UserError, ValueError, OSError) as error:
        return _explain(error)
    return None


def _explain(error: Exception | str) -> int:
    print(f"{_program()}: error: {one_line(error)}", file=sys.stderr)
    return 2


def _program() -> str:
    return Path(sys.argv[0]).name


def _discard_output() -> None:
    """Python writes what is left when it ends, and would complain about it then."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in filter(None, (sys.stdout, sys.stderr)):
        try:
            stream.flush()
        except OSError:
            os.dup2(nowhere, stream.fileno())


def one_line(error: Exception | str) -> str:
    """What an error says, on one line that isn't longer than a reader wants."""
    if isinstance(error, OSError) and not isinstance(error, UserError) and error.strerror:
        text = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    else:
        text = str(error) or type(error).__name__
    text = " ".join(text.split())
    if len(text) <= MOST_CHARACTERS:
        return text
    half = MOST_CHARACTERS // 2
    return f"{text[:half]} […] {text[-half:]}"
