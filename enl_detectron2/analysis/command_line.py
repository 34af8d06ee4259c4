"""What the tools' command lines have in common."""

import argparse
import os
from collections.abc import Iterable, Sequence
from typing import Any

from .palette import MODEL_COLOURS


def named_path(argument: str) -> tuple[str, str]:
    """``NAME=PATH``, a type for argparse.

    Raises:
        argparse.ArgumentTypeError: if it isn't of that form, or nothing is there.
    """
    name, _, path = argument.partition("=")
    if not (name.strip() and path):
        raise argparse.ArgumentTypeError(f"{argument!r} must be NAME=PATH")
    if not os.path.exists(path):
        raise argparse.ArgumentTypeError(f"{name!r}: there is no {path}")
    return name, path


def folder(argument: str) -> str:
    """A folder that is there, a type for argparse.

    Raises:
        argparse.ArgumentTypeError: if it isn't.
    """
    if not os.path.isdir(argument):
        raise argparse.ArgumentTypeError(f"there is no folder {argument}")
    return argument


def load_named_config(config: str, opts: Sequence[str]) -> Any:
    """The configuration of a file, or of a name of the model zoo with its trained weights, if any.

    Args:
        config: a .yaml or LazyConfig .py, or such a name, as "trained/nuclei_enl_rcnn_lite0.yaml".
        opts: overrides, as of ``load_config``.

    Raises:
        ConfigError, MissingFile: as ``load_config``.
    """
    # Seconds, which a wrong command line needn't wait for.
    from enl_detectron2.training.config import load_config

    return load_config(config, opts)


def score(argument: str) -> float:
    """A number from 0 to 1, a type for argparse.

    Raises:
        argparse.ArgumentTypeError: if it isn't one.
    """
    return _within(argument, float, 0, 1)


def length(argument: str) -> float:
    """A number of pixels above 0, a type for argparse.

    Raises:
        argparse.ArgumentTypeError: if it isn't one.
    """
    value = _within(argument, float, 0, float("inf"))
    if not value or value == float("inf"):
        raise argparse.ArgumentTypeError(f"{argument} must be a finite number above 0")
    return value


def count(argument: str) -> int:
    """A whole number from 1, a type for argparse.

    Raises:
        argparse.ArgumentTypeError: if it isn't one.
    """
    return _within(argument, int, 1, float("inf"))


def _within(argument: str, kind: type, low: float, high: float):
    bounds = f"from {low}" if high == float("inf") else f"from {low} to {high}"
    noun = "whole number" if kind is int else "number"
    try:
        value = kind(argument)
    except ValueError:
        value = float("nan")
    if not low <= value <= high:  # which no comparison with NaN is
        raise argparse.ArgumentTypeError(f"{argument!r} must be a {noun} {bounds}")
    return value


def by_name(pairs: Iterable[tuple[str, str]], most: int = len(MODEL_COLOURS)) -> dict[str, str]:
    """The paths of several models by their names, in the order given.

    Raises:
        ValueError: if a name comes twice, or there are more than ``most``.
    """
    paths: dict[str, str] = {}
    for name, path in pairs:
        if name in paths:
            raise ValueError(f"the name {name!r} is given twice")
        paths[name] = path
    if len(paths) > most:
        raise ValueError(f"{len(paths)} models are too many for one picture, at most {most}")
    return paths


def require_new(*paths: str | os.PathLike) -> None:
    """Nothing that was written before is overwritten.

    Raises:
        FileExistsError: names the first of ``paths`` that is there; an empty folder may be.
    """
    for path in paths:
        if os.path.isdir(path) and not os.listdir(path):
            continue
        if os.path.lexists(path):
            raise FileExistsError(f"{path} already exists: choose another name, or delete it")
