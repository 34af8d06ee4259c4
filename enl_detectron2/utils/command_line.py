"""How all commands of this project end."""

import logging
import os
import signal
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

from .text import one_line

REPORTED = (ValueError, OSError)  # every UserError is a ValueError
# Of libraries' modules, which warn their callers, who are libraries as well, of what they should
# replace: whoever runs a command can't.
WARN_DEVELOPERS = r"torch\.functional|detectron2\.model_zoo"


def run(main: Callable[[], None], reported: tuple[type[Exception], ...] = REPORTED) -> None:
    """Runs a command; what the user can put right is reported in one line on standard error.

    That ends with status 2, as argparse's own errors do; a reader of the output that stops early,
    such as ``head``, silently with 141. Any other error keeps its traceback. Characters that the
    terminal doesn't have are escaped. What libraries tell developers is left out, unless Python was
    asked for warnings.

    Args:
        main: the command.
        reported: the errors that the user can put right.
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
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)
    except reported as error:
        print(f"{Path(sys.argv[0]).name}: error: {one_line(error)}", file=sys.stderr)
        sys.exit(2)
