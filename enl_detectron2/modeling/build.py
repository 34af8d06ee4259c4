"""Relation blocks by name, and the step from a configuration to a block."""

import inspect
import re
from collections.abc import Mapping
from typing import Any

from detectron2.config import CfgNode
from detectron2.utils.registry import Registry
from torch import nn

from enl_detectron2.layers import Conv5x5Block, ENLBlock, InvalidOption, NonLocalBlock
from enl_detectron2.training.errors import ConfigError

RELATION_BLOCK_REGISTRY = Registry("RELATION_BLOCK")
RELATION_BLOCK_REGISTRY.__doc__ = """
Blocks that relate the positions of one feature map, (B, C, H, W) in and the same out.

A registered object is called as ``block(channels, **options)``, where ``channels`` is C and the
options are the keyword arguments that its signature names. From a YAML configuration it is given
those keys of its node (``MODEL.ENL_FPN``) whose lower-case names its signature has: a block with
an argument ``position`` reads ``MODEL.ENL_FPN.POSITION``, and a new one with an argument ``gain``
reads ``MODEL.ENL_FPN.GAIN``, once the project's own code has added that key.
"""
RELATION_BLOCK_REGISTRY.register(ENLBlock)
RELATION_BLOCK_REGISTRY.register(NonLocalBlock)
RELATION_BLOCK_REGISTRY.register(Conv5x5Block)


def check_registered(registry: Registry, name: str, key: str) -> None:
    """Raises ValueError, with the legal names, unless ``registry`` knows ``name``."""
    if name not in registry:
        legal = ", ".join(sorted(registered for registered, _ in registry))
        raise ConfigError(f"{key} must name one of {legal}; got {name!r}")


def option_names(block: str) -> list[str]:
    """The options that the registered ``block`` takes: its arguments after ``channels``."""
    return list(inspect.signature(RELATION_BLOCK_REGISTRY.get(block)).parameters)[1:]


def block_options(node: CfgNode, block: str) -> dict[str, Any]:
    """The options of the registered ``block`` that ``node`` holds, in lower case."""
    names = option_names(block)
    return {key.lower(): value for key, value in node.items() if key.lower() in names}


def build_relation_block(
    block: str,
    channels: int,
    options: Mapping[str, Any],
    *,
    zero_init_residual: bool = False,
    node: str,
) -> nn.Module:
    """One block of the registry.

    Args:
        block: a name in ``RELATION_BLOCK_REGISTRY``.
        channels: of the feature map.
        options: keyword arguments of the block.
        zero_init_residual: whether the block's last layer starts at zero, so that it starts as the
            identity. That layer is the attribute ``out``, or Conv5x5Block's ``conv``.
        node: the configuration node that they come from, for messages.

    Raises:
        ValueError: if the block or an option is unknown or wrong, or the block has no layer
            ``out`` that could start at zero; names the key, and what may be.
    """
    check_registered(RELATION_BLOCK_REGISTRY, block, f"{node}.BLOCK")
    names = option_names(block)
    for option, value in options.items():
        if option not in names:
            raise ConfigError(
                f"{block} has no option {option!r}; it takes {', '.join(names)} (got {value!r})"
            )
    try:
        built = RELATION_BLOCK_REGISTRY.get(block)(channels, **options)
    except InvalidOption as error:
        raise ConfigError(f"{node}.{error.option.upper()} is wrong for {block}: {error}") from error
    if zero_init_residual:
        last = built.conv if isinstance(built, Conv5x5Block) else getattr(built, "out", None)
        if not isinstance(last, nn.Module):
            raise ConfigError(
                f"{node}.ZERO_INIT_RESIDUAL needs a block whose last layer is its attribute 'out'; "
                f"{block} has none"
            )
        for parameter in last.parameters():
            nn.init.zeros_(parameter)
    return built


def relation_block_names(model: nn.Module) -> list[str]:
    """The names, within ``model``, of the relation blocks that this project's backbones put there.

    What comes before them is a plain detector's, so they are what its checkpoint can't have.
    """
    return [
        name
        for name, _ in model.named_modules()
        if re.fullmatch(r"fpn_relation\d+|non_local", name.rpartition(".")[2])
    ]
