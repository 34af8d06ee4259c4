"""What the tools' command lines have in common: nothing here takes time to import."""

import argparse
import math
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from enl_detectron2.utils.imports import add_import_option

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


def number(
    kind: type[int] | type[float], low: float, high: float = math.inf
) -> Callable[[str], int | float]:
    """A type for argparse: a finite number from ``low`` to ``high``."""
    bounds = f"from {low:g}" if high == math.inf else f"from {low:g} to {high:g}"

    def parse(argument: str) -> int | float:
        try:
            value = kind(argument)
        except ValueError:
            value = math.nan
        if not (low <= value <= high and math.isfinite(value)):
            noun = "whole number" if kind is int else "number"
            raise argparse.ArgumentTypeError(f"{argument!r} must be a {noun} {bounds}")
        return value

    return parse


def folder(argument: str) -> str:
    """A folder that is there, a type for argparse.

    Raises:
        argparse.ArgumentTypeError: if it isn't.
    """
    if not os.path.isdir(argument):
        raise argparse.ArgumentTypeError(f"there is no folder {argument}")
    return argument


def new_parser(description: str) -> argparse.ArgumentParser:
    """A parser whose help shows a module's docstring as it is."""
    return argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def add_config(parser: argparse.ArgumentParser, default: str | None = None) -> None:
    """Adds ``--config-file``, which is needed if there is no default, ``--opts``, ``--import``."""
    parser.add_argument(
        "--config-file",
        required=default is None,
        default=default,
        help=".yaml or LazyConfig .py, or a name of the model zoo that has trained weights"
        + (" (default: %(default)s)" if default else ""),
    )
    parser.add_argument(
        "--opts",
        nargs=argparse.REMAINDER,
        default=[],
        help="overrides of the configuration: KEY VALUE … for .yaml, key=value … for .py",
    )
    add_import_option(parser)


def add_tile(parser: argparse.ArgumentParser) -> None:
    """Adds ``--tile``."""
    parser.add_argument(
        "--tile",
        type=number(int, 0),
        metavar="PIXELS",
        help="for large photographs: detect on square tiles of this side, which overlap by a "
        "quarter (default: the configuration's TEST.TILE, train.tile in a LazyConfig; 0: whole)",
    )


def add_threshold(parser: argparse.ArgumentParser, name: str = "--confidence-threshold") -> None:
    """Adds the least score of detections that count."""
    parser.add_argument(
        name,
        type=number(float, 0, 1),
        default=0.5,
        help="detections below are left out, from 0 to 1 (default: 0.5)",
    )


def add_output_folder(parser: argparse.ArgumentParser) -> None:
    """Adds ``--output``."""
    parser.add_argument("--output", required=True, type=Path, help="folder, new or empty")


def add_models(parser: argparse.ArgumentParser) -> None:
    """Adds ground truth and models or their results: ``--annotations``, ``--images``, ``--model``,
    ``--results``, ``--tile`` and ``--import``."""
    parser.add_argument("--annotations", required=True, help="ground truth in COCO's format")
    parser.add_argument("--images", type=folder, help="folder of its images")
    parser.add_argument(
        "--model",
        nargs="+",
        action="append",
        default=[],
        metavar=("NAME", "CONFIG [WEIGHTS]"),
        help="a .yaml or LazyConfig .py with its weights, or a name of the model zoo; once for "
        "each model",
    )
    parser.add_argument(
        "--results",
        nargs="+",
        type=named_path,
        default=[],
        metavar="NAME=FILE",
        help="a model's coco_instances_results.json, of enl evaluate, instead of --model",
    )
    add_tile(parser)
    add_import_option(parser)


def by_name(
    pairs: Iterable[Sequence[Any]], most: int = len(MODEL_COLOURS)
) -> dict[str, tuple[Any, ...]]:
    """What is given for several models, by their names, in the order given.

    Args:
        pairs: a name each, and what follows it.
        most: models.

    Raises:
        ValueError: if a name comes twice, or there are more than ``most``, or none.
    """
    models: dict[str, tuple[Any, ...]] = {}
    for name, *rest in pairs:
        if name in models:
            raise ValueError(f"the name {name!r} is given twice")
        if not rest:
            raise ValueError(f"{name!r} needs a configuration: NAME CONFIG [WEIGHTS]")
        models[name] = tuple(rest)
    if not 1 <= len(models) <= most:
        raise ValueError(f"{len(models)} models are given, it must be 1 to {most}")
    return models


def results_of(
    args: argparse.Namespace, most: int = len(MODEL_COLOURS)
) -> dict[str, str | os.PathLike]:
    """The result files of all models by their names; those given by configuration are run.

    Args:
        args: with the options of :func:`add_models` and :func:`add_output_folder`. What has to be
            run is written into that folder.
        most: models.

    Raises:
        ValueError: as of :func:`by_name`, or if a model can't be run; says why.
        FileExistsError: if there is something in the folder.
    """
    by_name([*args.results, *args.model], most)
    require_new(args.output)
    files = dict(args.results)
    if args.model:
        if not args.images:
            raise ValueError("--model needs the --images that it is to be run on")
        from enl_detectron2.analysis.detections.results import run_models

        models = by_name(args.model)
        files |= run_models(models, args.annotations, args.images, args.output, args.tile)
    return files


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
