"""What this project's own trainer reads beside detectron2's keys, and the way from a file to it."""

import difflib
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from detectron2.config import CfgNode as CN
from detectron2.config import LazyConfig, get_cfg
from omegaconf import DictConfig

from enl_detectron2.config import add_enl_config
from enl_detectron2.utils.errors import ConfigError, MissingFile, summarize

from .lazy_overrides import check_override
from .yaml_files import SafeReader, merge_values


def load_config(config_file: str, opts: Sequence[str] = ()) -> CN | DictConfig:
    """A configuration with the project's keys.

    A YAML file can't run code, whoever wrote it; a LazyConfig is code, and is run.

    Args:
        config_file: a .yaml, or a LazyConfig .py.
        opts: overrides, KEY VALUE … for a .yaml, key=value … for a .py.

    Raises:
        ConfigError: (a ValueError) if the file is no configuration, or a key isn't known or has
            another type.
        MissingFile: (a FileNotFoundError) if the file isn't there.
    """
    config_file = str(config_file)
    if "://" not in config_file and not Path(config_file).is_file():
        raise MissingFile(f"--config-file: there is no file {config_file!r}")
    if config_file.endswith(".py"):
        return _load_lazy(config_file, opts)
    cfg = get_training_cfg()
    merge_file(cfg, config_file)
    merge_options(cfg, opts)
    return cfg


def merge_file(cfg: CN, config_file: str) -> None:
    """``cfg.merge_from_file``, whose files can't run code and whose errors are one sentence.

    Raises:
        ConfigError: (a ValueError) as :func:`load_config`.
        MissingFile: (a FileNotFoundError) if a ``_BASE_`` isn't there.
    """
    try:
        values = SafeReader.load_yaml_with_base(str(config_file))
    except ConfigError as error:
        named = str(config_file) in str(error)
        raise error if named else ConfigError(f"{config_file}: {error}") from error
    except OSError as error:
        raise MissingFile(f"{config_file}: its _BASE_ can't be read: {error}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{config_file} is no YAML: {' '.join(str(error).split())}") from error
    except Exception as error:  # fvcore's, of a _BASE_ of the wrong kind
        raise ConfigError(f"{config_file} can't be read: {summarize(error)}") from error
    try:
        merge_values(cfg, values)
    except Exception as error:  # yacs raises assertions, KeyError, TypeError, ValueError
        raise ConfigError(f"{config_file}: {_explain(cfg, _keys(values), error)}") from error


def merge_options(cfg: CN, opts: Sequence[str]) -> None:
    """``cfg.merge_from_list``, whose errors are one sentence.

    Raises:
        ConfigError: (a ValueError) as :func:`load_config`.
    """
    if len(opts) % 2:
        raise ConfigError(
            f"after the options come pairs of KEY VALUE; the last one here, {opts[-1]!r}, has no "
            "partner"
        )
    try:
        cfg.merge_from_list(list(opts))
    except Exception as error:  # as above
        raise ConfigError(_explain(cfg, opts[::2], error)) from error


def _load_lazy(config_file: str, opts: Sequence[str]) -> DictConfig:
    try:
        cfg = LazyConfig.load(config_file)
    except SyntaxError as error:
        where = error.__cause__ or error  # detectron2 raises another one, which doesn't say where
        raise ConfigError(
            f"{config_file} is no Python, line {where.lineno}: {where.msg}"
        ) from error
    except Exception as error:  # of the code that the file is
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if frame.filename == config_file]
        where = f", line {lines[-1]}" if lines else ""
        raise ConfigError(f"{config_file}{where}: {summarize(error)}") from error
    for option in opts:
        key, assigned, value = option.partition("=")
        if not assigned:
            raise ConfigError(f"{option!r} must be key=value, as the file is a LazyConfig")
        check_override(cfg, key.lstrip("+"), value)
        try:
            LazyConfig.apply_overrides(cfg, [option])
        except Exception as error:  # of detectron2, OmegaConf or Hydra's parser
            raise ConfigError(f"{key} can't be set to {value!r}: {summarize(error)}") from error
    return cfg


def _explain(cfg: CN, keys: Sequence[str], error: Exception) -> str:
    """The first of ``keys`` that ``cfg`` doesn't have, or else what yacs says."""
    for key in keys:
        if _is_unknown(cfg, key):
            near = difflib.get_close_matches(key, _keys(cfg), n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            return f"{key} is not a key of the configuration{hint}"
    return summarize(error)


def _is_unknown(node: CN, key: str) -> bool:
    for name in key.split("."):
        if not isinstance(node, CN):
            return True
        if name not in node:
            return not node.is_new_allowed()
        node = node[name]
    return False


def _keys(node: dict[str, Any]) -> list[str]:
    return list(_walk(node, ""))


def _walk(node: dict[str, Any], prefix: str) -> Iterator[str]:
    for key, value in node.items():
        yield f"{prefix}{key}"
        if isinstance(value, dict):
            yield from _walk(value, f"{prefix}{key}.")


def get_training_cfg() -> CN:
    """detectron2's defaults with all keys of this project."""
    cfg = get_cfg()
    add_enl_config(cfg)
    add_training_config(cfg)
    return cfg


def add_training_config(cfg: CN) -> None:
    """Adds the keys that only this project's trainer reads to ``cfg``."""
    # "SGD", as everywhere in detectron2, or "AdamW", which learns from scratch in fewer steps.
    cfg.SOLVER.OPTIMIZER = "SGD"
    # With several processes: whether parameters may have no part in a step's losses, as those of
    # pyramid levels that no head reads. PyTorch looks for them in each step, which takes time.
    cfg.SOLVER.FIND_UNUSED_PARAMETERS = False

    # Data sets in COCO format: [[name, annotation file, image folder], ...]. DATASETS.TRAIN and
    # DATASETS.TEST may then use the names. Relative paths are looked up in $DETECTRON2_DATASETS,
    # then in the working directory.
    cfg.DATASETS.COCO_FORMAT = []

    # What to do with a training image that can't be used: "stop" the run, or "replace" it by
    # another one with a warning. Both name the file.
    cfg.DATALOADER.ON_BAD_IMAGE = "stop"

    # What to do with images of more than 8 bits a channel: "refuse" them, or "rescale" each to 8.
    cfg.DATALOADER.DEEP_IMAGES = "refuse"
