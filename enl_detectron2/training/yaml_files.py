"""YAML configurations from anyone: read as data, never as code."""

import contextvars
import os
from pathlib import Path
from typing import Any

import yaml
from detectron2 import model_zoo
from detectron2.config import CfgNode, downgrade_config, upgrade_config
from detectron2.utils.file_io import PathManager

from enl_detectron2.utils.errors import ConfigError

# An alias stands for all that its anchor holds. A configuration has some hundred values.
MOST_VALUES = 100_000

MERGE = "tag:yaml.org,2002:merge"  # of the key <<, which the loader resolves by itself

_being_read: contextvars.ContextVar[tuple[str, ...]] = contextvars.ContextVar("files", default=())


def merge_values(cfg: CfgNode, values: dict[str, Any]) -> None:
    """Merges what :class:`SafeReader` has read, of an older version, too, into ``cfg``.

    Raises:
        KeyError: if ``cfg`` lacks a key.
        ValueError: if a value has another type.
    """
    loaded = CfgNode(values)
    version = loaded.get("VERSION", cfg.VERSION)
    if version == cfg.VERSION:
        cfg.merge_from_other_cfg(loaded)
        return
    old = downgrade_config(cfg, to_version=version)
    old.merge_from_other_cfg(loaded)
    new = upgrade_config(old)
    cfg.clear()
    cfg.update(new)


class SafeReader(CfgNode):
    """Reads files as detectron2's ``CfgNode`` does, but they can't run code or fill the memory.

    A few files of detectron2's own model zoo evaluate an expression; they are read as detectron2
    reads them, also as the ``_BASE_`` of another file.
    """

    @classmethod
    def load_yaml_with_base(cls, filename: str, allow_unsafe: bool = False) -> dict[str, Any]:
        """The content of a file and of the files that it names as its ``_BASE_``.

        Args:
            filename: a path, or a URL that detectron2 can open.
            allow_unsafe: of no effect: what is safe depends on whose file it is.

        Raises:
            ConfigError: (a ValueError) if a file holds no keys, would run code, holds too much, or
                is its own ``_BASE_``.
            yaml.YAMLError: if it is no YAML.
            OSError: if it can't be read.
        """
        name = filename if "://" in filename else os.path.realpath(os.path.expanduser(filename))
        if name in _being_read.get():
            raise ConfigError(f"{filename} includes itself: by its _BASE_ it is read once more")
        is_theirs = "://" not in filename and _in_model_zoo(Path(name))
        if not is_theirs:
            with PathManager.open(filename, "r") as file:
                _check(filename, file.read())
        token = _being_read.set((*_being_read.get(), name))
        try:
            return super().load_yaml_with_base(filename, allow_unsafe=is_theirs)
        finally:
            _being_read.reset(token)


def _in_model_zoo(path: Path) -> bool:
    # Resolved, as a checkout of detectron2 has a link there.
    configs = Path(model_zoo.__file__).with_name("configs").resolve()
    return path.is_relative_to(configs)


def _check(filename: str, text: str) -> None:
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        count = _count(root, {}, ())
    except RecursionError:
        raise ConfigError(f"{filename}: its values are nested too deeply") from None
    if not isinstance(root, yaml.MappingNode):
        raise ConfigError(f"{filename} is no configuration: it must hold keys with values")
    if count > MOST_VALUES:
        raise ConfigError(
            f"{filename}: with its aliases written out it holds more than {MOST_VALUES} values"
        )
    tag = _first_foreign_tag(root)
    if tag:
        raise ConfigError(
            f"{filename} is refused: its tag {tag} could run code; a configuration holds plain "
            "values only"
        )


def _children(node: yaml.Node | None) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [part for pair in node.value for part in pair]
    return node.value if isinstance(node, yaml.SequenceNode) else []


def _count(node: yaml.Node | None, known: dict[int, int], above: tuple[int, ...]) -> int:
    """The number of values below and including ``node``, those of aliases each time."""
    if id(node) in above:
        return MOST_VALUES + 1  # it holds itself, so there is no end
    if id(node) not in known:
        below = (*above, id(node))
        known[id(node)] = 1 + sum(_count(child, known, below) for child in _children(node))
    return known[id(node)]


def _first_foreign_tag(root: yaml.Node | None) -> str:
    """The first tag that the safe loader has no constructor for, or ""."""
    pending, seen = [root], set()
    while pending:
        node = pending.pop()
        if node is None or id(node) in seen:
            continue
        seen.add(id(node))
        if node.tag not in yaml.SafeLoader.yaml_constructors and node.tag != MERGE:
            return node.tag
        pending += reversed(_children(node))
    return ""
