"""How all commands of this project end."""

import logging
import os
import signal
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

from .errors import UserError

MOST_CHARACTERS = 1000  # of a message: names can have thousands
# Of libraries' modules, which warn their callers, who are libraries as well, of what they should
# replace: whoever runs a command can't.
WARN_DEVELOPERS = r"torch\.functional|detectron2\.model_zoo"


def run(main: Callable[[], None]) -> None:
    """Runs a command; what the user can put right is reported in one line on standard error.

    That ends with status 2, as argparse's own errors do; a reader of the output that stops early,
    such as ``head``, silently with 141. Any other error keeps its traceback. Characters that the
    terminal doesn't have are escaped. What libraries tell developers is left out, unless Python was
    asked for warnings.

    Args:
        main: the command.
    """
    if not sys.warnoptions:
        warnings.filterwarnings("ignore", module=WARN_DEVELOPERS)
        logging.getLogger("torch.fx._symbolic_trace").setLevel(logging.ERROR)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # None where there is no terminal at all
            stream.reconfigure(errors="backslashreplace")
    try:
        main()
        sys.stdout.flush()
    except BrokenPipeError:
        # Python writes what is left when it ends, and would complain about it then.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + signal.SIGPIPE)
    except (UserError, ValueError, OSError) as error:
        print(f"{Path(sys.argv[0]).name}: error: {one_line(error)}", file=sys.stderr)
        sys.exit(2)


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
