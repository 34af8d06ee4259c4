"""Modules of a user's own that a command imports first, as they register blocks or backbones."""

import argparse
import importlib
import importlib.util
import sys
from collections.abc import Iterable
from pathlib import Path

from .errors import ConfigError

# In the order in which they were imported, for the processes that a command starts.
IMPORTED: list[str] = []


def add_import_option(parser: argparse.ArgumentParser) -> None:
    """Adds ``--import MODULE``, which imports as soon as it is parsed."""
    parser.add_argument(
        "--import",
        dest="imports",
        metavar="MODULE",
        action="append",
        default=[],
        type=_argument,
        help="a .py file, or a module by its name, that registers blocks or backbones of yours",
    )


def import_module(name: str) -> str:
    """Imports a module once; returns its name.

    Args:
        name: of a module that Python finds, or a path that ends in ``.py``.

    Raises:
        ConfigError: (a ValueError) if there is none.
    """
    if name in IMPORTED:
        return name
    if name.endswith(".py"):
        path = Path(name)
        if not path.is_file():
            raise ConfigError(f"there is no file {name} to import")
        spec = importlib.util.spec_from_file_location(path.stem, path)
        module = importlib.util.module_from_spec(spec)
        sys.modules[path.stem] = module  # where pickles and TorchScript look for its classes
        spec.loader.exec_module(module)
    else:
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name != name.split(".")[0]:
                raise
            raise ConfigError(f"Python finds no module {name!r} to import") from error
    IMPORTED.append(name)
    return name


def _argument(name: str) -> str:
    try:
        return import_module(name)
    except ConfigError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def import_modules(names: Iterable[str]) -> None:
    """:func:`import_module` of each, in a process that a command has started."""
    for name in names:
        import_module(name)
