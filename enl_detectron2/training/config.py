"""What this project's own trainer reads beside detectron2's keys, and the way from a file to it."""

import difflib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import yaml
from detectron2.config import CfgNode as CN
from detectron2.config import LazyConfig, get_cfg
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from enl_detectron2.config import add_enl_config

from .errors import ConfigError, MissingFile


def load_config(config_file: str, opts: Sequence[str]) -> CN | DictConfig:
    """A configuration with the project's keys.

    Args:
        config_file: a .yaml, or a LazyConfig .py.
        opts: overrides, KEY VALUE … for a .yaml, key=value … for a .py.

    Raises:
        ConfigError: (a ValueError) if the file is no configuration, or a key isn't known or has
            another type.
        MissingFile: (a FileNotFoundError) if the file isn't there.
    """
    if "://" not in config_file and not Path(config_file).is_file():
        raise MissingFile(f"--config-file: there is no file {config_file!r}")
    if config_file.endswith(".py"):
        return _load_lazy(config_file, list(opts))
    cfg = get_training_cfg()
    try:
        cfg.merge_from_file(config_file)
    except OSError as error:
        raise MissingFile(f"{config_file}: its _BASE_ can't be read: {error}") from error
    # What yacs, fvcore and PyYAML raise at files that are no mapping of keys to values.
    except (AssertionError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"{config_file}: {_explain(cfg, error)}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{config_file} is no YAML: {' '.join(str(error).split())}") from error
    if len(opts) % 2:
        raise ConfigError(
            f"after the options come pairs of KEY VALUE; the last one here, {opts[-1]!r}, has no "
            "partner"
        )
    try:
        cfg.merge_from_list(list(opts))
    except (AssertionError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise ConfigError(_explain(cfg, error)) from error
    return cfg


def _load_lazy(config_file: str, opts: list[str]) -> DictConfig:
    try:
        cfg = LazyConfig.load(config_file)
    except SyntaxError as error:
        where = error.__cause__ or error  # detectron2 raises another one, which doesn't say where
        raise ConfigError(
            f"{config_file} is no Python, line {where.lineno}: {where.msg}"
        ) from error
    for option in opts:
        key, assigned, value = option.partition("=")
        if not assigned:
            raise ConfigError(f"{option!r} must be key=value, as the file is a LazyConfig")
        try:
            LazyConfig.apply_overrides(cfg, [option])
        # Hydra's parser derives its errors from Exception itself, KeyError is detectron2's.
        except (KeyError, NotImplementedError, OmegaConfBaseException) as error:
            raise ConfigError(f"{key} can't be set to {value!r}: {error.args[0]}") from error
        except Exception as error:
            if type(error).__name__ != "OverrideParseException":
                raise
            raise ConfigError(f"{key} can't be set to {value!r}: quote it for Hydra") from error
    return cfg


def _explain(cfg: CN, error: Exception) -> str:
    """What yacs has found, with what would be right."""
    message = str(error.args[0] if error.args else error)
    if unknown := re.search(r"Non-existent (?:config )?key: (\S+)", message):
        near = difflib.get_close_matches(unknown[1], list(_keys(cfg)), n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        return f"{unknown[1]} is not a key of the configuration{hint}"
    mismatch = (
        r"Type mismatch \(<class '(\w+)'> vs. .*\) with values \((.*) vs. (.*)\) for .*: (\S+)"
    )
    if match := re.search(mismatch, message, re.DOTALL):
        kind, default, value, key = match.groups()
        return f"{key} must be of the type {kind}, as {default or repr('')} is, got {value!r}"
    return f"it is no configuration ({' '.join(message.split())})"


def _keys(node: CN, prefix: str = "") -> Iterator[str]:
    for key, value in node.items():
        yield prefix + key
        if isinstance(value, CN):
            yield from _keys(value, f"{prefix}{key}.")


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

    # Data sets in COCO format: [[name, annotation file, image folder], ...]. DATASETS.TRAIN and
    # DATASETS.TEST may then use the names. Relative paths are looked up in $DETECTRON2_DATASETS,
    # then in the working directory.
    cfg.DATASETS.COCO_FORMAT = []

    # What to do with a training image that can't be used: "stop" the run, or "replace" it by
    # another one with a warning. Both name the file.
    cfg.DATALOADER.ON_BAD_IMAGE = "stop"

    # What to do with images of more than 8 bits a channel: "refuse" them, or "rescale" each to 8.
    cfg.DATALOADER.DEEP_IMAGES = "refuse"
