"""From a file, or a name of the model zoo, to the configuration of a run."""

import contextlib
import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import yaml
from detectron2 import model_zoo as detectron2_zoo
from detectron2.config import CfgNode, LazyConfig, downgrade_config, get_cfg, upgrade_config
from detectron2.utils.file_io import PathManager
from fvcore.common.config import BASE_KEY
from omegaconf import DictConfig, OmegaConf

from enl_detectron2 import model_zoo
from enl_detectron2.config import add_enl_config, add_training_config
from enl_detectron2.layers.relation_block import option_names
from enl_detectron2.modeling import RELATION_BLOCK_REGISTRY
from enl_detectron2.utils.errors import ConfigError, MissingFile

# Read by detectron2's default_setup and this project's trainer, whether a configuration has them.
OPTIONAL = {
    "train.seed",
    "train.cudnn_benchmark",
    "train.on_bad_image",
    "train.deep_images",
    "train.tile",
}

logger = logging.getLogger(__name__)


class _SafeReader(CfgNode):
    """Reads YAML files as detectron2's ``CfgNode`` does, but runs no code, whoever wrote them.

    A few files of detectron2's own model zoo evaluate an expression; they are read as detectron2
    reads them, also as the ``_BASE_`` of another file. A ``_BASE_`` that isn't there may be a name
    of this project's model zoo.
    """

    _in_zoo: ClassVar[dict[str, str]] = {}  # what fvcore makes of such a name, and its file

    @classmethod
    def load_yaml_with_base(cls, filename: str, allow_unsafe: bool = False) -> dict[str, Any]:
        if filename in cls._in_zoo and not PathManager.isfile(filename):
            filename = cls._in_zoo[filename]
        # Resolved, as a checkout of detectron2 has a link there.
        theirs = Path(detectron2_zoo.__file__).with_name("configs").resolve()
        allow_unsafe = Path(filename).resolve().is_relative_to(theirs)
        with PathManager.open(filename) as file:
            node = yaml.compose(file, yaml.SafeLoader)
        for key in keys_twice(node):
            logger.warning("%s has %s more than once: only the last one counts", filename, key)
        for base in _bases(node):
            with contextlib.suppress(RuntimeError):  # it is none of the zoo
                joined = os.path.join(os.path.dirname(filename), base)
                cls._in_zoo[joined] = model_zoo.get_config_file(base)
        return super().load_yaml_with_base(filename, allow_unsafe=allow_unsafe)


def _bases(node: yaml.Node | None) -> list[str]:
    """What a file names as its ``_BASE_``, which can be several."""
    values = [value for key, value in node.value if key.value == BASE_KEY] if _maps(node) else []
    return [
        one.value
        for value in values
        for one in (value.value if isinstance(value, yaml.SequenceNode) else [value])
        if isinstance(one.value, str)
    ]


def _maps(node: yaml.Node | None) -> bool:
    return isinstance(node, yaml.MappingNode)


def keys_twice(node: yaml.Node | None, path: str = "") -> Iterator[str]:
    """Of a mapping in YAML, as a second ``MODEL:`` further down, which takes the first's place."""
    seen = set()
    for key, value in node.value if _maps(node) else ():
        name = f"{path}{key.value}"
        if name in seen:
            yield name
        seen.add(name)
        yield from keys_twice(value, f"{name}.")


def merge_file(cfg: CfgNode, config_file: str | Path) -> None:
    """``cfg.merge_from_file``, which runs no code.

    Raises:
        ConfigError: (a ValueError) if the file can't be read as plain values.
    """
    try:
        loaded = CfgNode(_SafeReader.load_yaml_with_base(str(config_file)))
    except yaml.YAMLError as error:
        raise ConfigError(
            f"{config_file} can't be read: a configuration is YAML with plain values only ({error})"
        ) from error
    version = loaded.get("VERSION", cfg.VERSION)
    if version == cfg.VERSION:
        cfg.merge_from_other_cfg(loaded)
        return
    old = downgrade_config(cfg, to_version=version)
    old.merge_from_other_cfg(loaded)
    new = upgrade_config(old)
    cfg.clear()
    cfg.update(new)


def get_training_cfg() -> CfgNode:
    """detectron2's defaults with all keys of this project."""
    cfg = get_cfg()
    add_enl_config(cfg)
    add_training_config(cfg)
    return cfg


def load_config(
    config_file: str | Path, opts: Sequence[str] = (), tile: int | None = None
) -> CfgNode | DictConfig:
    """A configuration with the project's keys, not frozen.

    A YAML file can't run code, whoever wrote it; a LazyConfig is code, and is run.

    Args:
        config_file: as of :func:`find_config`.
        opts: overrides, KEY VALUE … for a .yaml, key=value … for a .py. The value of a node, as
            BLOCK_OPTIONS, is a mapping in YAML, whose keys are overridden.
        tile: as of :func:`find_config`.

    Raises:
        ConfigError: (a ValueError) if a YAML file can't be read as plain values.
        MissingFile: (a FileNotFoundError) if there is no such file.
        Exception: detectron2's own for what it doesn't accept, as a key that isn't there.
    """
    file, opts = find_config(config_file, opts, tile)
    if file.endswith(".py"):
        return _load_lazy(file, opts)
    cfg = get_training_cfg()
    merge_file(cfg, file)
    _merge_opts(cfg, opts)
    return cfg


def _merge_opts(cfg: CfgNode, opts: list[str]) -> None:
    """``cfg.merge_from_list``, which itself takes no mapping for a node."""
    while opts:
        pair, opts = opts[:2], opts[2:]
        names, value, node = pair[0].split("."), None, cfg
        for name in names:
            node = node.get(name) if isinstance(node, CfgNode) else None
        if isinstance(node, CfgNode):
            with contextlib.suppress(yaml.YAMLError):
                value = yaml.safe_load(pair[-1])
        if isinstance(value, dict):
            for name in reversed(names):
                value = {name: value}
            cfg.merge_from_other_cfg(CfgNode(value))
        else:
            cfg.merge_from_list(pair)


def drop_other_options(cfg: CfgNode) -> None:
    """Takes out the options that ``MODEL.ENL_FPN.BLOCK`` hasn't, if they are None.

    ``add_enl_config`` has those of all blocks, so that a command line can set them. What a run
    writes down lists its own block's.
    """
    node = cfg.MODEL.ENL_FPN
    if node.BLOCK and node.BLOCK not in RELATION_BLOCK_REGISTRY:
        return  # which is said when the model is built
    own = option_names(RELATION_BLOCK_REGISTRY.get(node.BLOCK)) if node.BLOCK else []
    for name in node.BLOCK_OPTIONS.keys() - set(own):
        value = node.BLOCK_OPTIONS[name]
        if all(one is None for one in (value.values() if isinstance(value, dict) else [value])):
            del node.BLOCK_OPTIONS[name]


def find_config(
    name: str | Path, opts: Sequence[str] = (), tile: int | None = None
) -> tuple[str, list[str]]:
    """The file of a configuration, and its overrides.

    Args:
        name: a .yaml or a LazyConfig .py, or a name of the model zoo, whose trained weights, if it
            has any, become the first override.
        opts: overrides.
        tile: becomes the last one, of ``TEST.TILE`` or ``train.tile``, unless it is None.

    Raises:
        MissingFile: (a FileNotFoundError) if there is no such file and no such name.
    """
    name, opts = str(name), list(opts)
    if tile is not None:
        opts += [f"train.tile={tile}"] if name.endswith(".py") else ["TEST.TILE", str(tile)]
    if "://" in name or Path(name).is_file():
        return name, opts
    try:
        file = model_zoo.get_config_file(name)
    except RuntimeError:
        raise MissingFile(
            f"--config-file: {name!r} is neither a file nor a configuration of the model zoo"
        ) from None
    try:
        weights = model_zoo.get_checkpoint_file(name)
    except RuntimeError:  # it has none
        return file, opts
    if file.endswith(".py"):
        return file, [f"train.init_checkpoint={weights}", *opts]
    return file, ["MODEL.WEIGHTS", weights, *opts]


def _load_lazy(file: str, opts: Sequence[str]) -> DictConfig:
    cfg = LazyConfig.load(file)
    for key in (option.partition("=")[0].lstrip("+") for option in opts):
        # A call says so if it doesn't take an argument; a key that no one reads has no effect.
        first = key.split(".")[0]
        is_new = first == "train" and OmegaConf.select(cfg, key) is None and key not in OPTIONAL
        if is_new or first not in cfg:
            logger.warning("%s is not a key of the configuration: is it spelled right?", key)
    return LazyConfig.apply_overrides(cfg, list(opts))
