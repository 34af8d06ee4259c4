"""Whether an override of a LazyConfig names something that is there."""

import inspect
from typing import Any

from detectron2.utils.registry import locate
from omegaconf import DictConfig, ListConfig

from enl_detectron2.utils.errors import ConfigError

# Read by detectron2's default_setup and this project's trainer, whether a configuration has them.
OPTIONAL = (
    *("train.seed", "train.cudnn_benchmark", "train.on_bad_image", "train.deep_images"),
    "dataloader.coco_format",
)


def check_override(cfg: DictConfig, key: str, value: str) -> None:
    """Checks that an override names a key that is there, or an argument that a call takes.

    Args:
        cfg: before the override.
        key: as "model.backbone.out_channels".
        value: for the message.

    Raises:
        ConfigError: (a ValueError) if something else is named, which would have no effect.
    """
    if key in OPTIONAL:
        return
    node, path, in_call = cfg, "", False
    for name in key.split("."):
        if isinstance(node, ListConfig) and name.isdigit() and int(name) < len(node):
            name = int(name)
        elif not isinstance(node, DictConfig) or name not in node:
            allowed = _arguments(node)
            # A mapping that is an argument, as a block's options, may hold anything.
            free = in_call and isinstance(node, DictConfig) and "_target_" not in node
            if allowed is None or name in allowed or free:
                return
            known = ", ".join(map(str, allowed)) or "no keys"
            raise ConfigError(
                f"{key} can't be set to {value!r}: {path or 'the configuration'} has {known}"
            )
        in_call |= isinstance(node, DictConfig) and "_target_" in node
        node, path = node[name], f"{path}.{name}".lstrip(".")


def _arguments(node: Any) -> list[str] | None:
    """The names that a node may hold; None if they can't be known."""
    if not isinstance(node, DictConfig):
        return []
    if "_target_" not in node:
        return list(node)
    target = node["_target_"]
    try:
        target = locate(target) if isinstance(target, str) else target
        parameters = inspect.signature(target).parameters.values()
    except Exception:  # what isn't there is reported when it is built; C code has no signature
        return None
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters):
        return None
    return [parameter.name for parameter in parameters]
