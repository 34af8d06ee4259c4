"""Relation blocks by name, and the step from a configuration to a block."""

import inspect
from collections.abc import Mapping
from typing import Any

from detectron2.config import CfgNode
from detectron2.utils.registry import Registry
from torch import nn

from enl_detectron2.layers import Conv5x5Block, ENLBlock, MapBlock, NonLocalBlock, RelationBlock
from enl_detectron2.layers.relation_block import InvalidOption, option_names

RELATION_BLOCK_REGISTRY = Registry("RELATION_BLOCK")
RELATION_BLOCK_REGISTRY.__doc__ = """
Blocks that relate the positions of one feature map, (B, C, H, W) in and the same out.

A registered class is called as ``block(channels, **options)`` with the C channels and the options
of ``MODEL.ENL_FPN.BLOCK_OPTIONS``, or of a LazyConfig's ``block_options``.

A block whose ``forward(x, extent)`` takes two arguments gets where each image ends, and
:func:`enl_detectron2.layers.inside` makes the mask of it: an image's mean is
``(x * inside(extent, x)).sum((2, 3)) / inside(extent, x).sum((2, 3))``. One whose ``forward(x)``
takes the map alone sees the padding as well. A :class:`enl_detectron2.layers.RelationBlock` with
its ``zero_init`` can start as the identity.
"""
RELATION_BLOCK_REGISTRY.register(ENLBlock)
RELATION_BLOCK_REGISTRY.register(NonLocalBlock)
RELATION_BLOCK_REGISTRY.register(Conv5x5Block)


def as_block(module: nn.Module) -> nn.Module:
    """The module itself if it can be called as ``module(x, extent)``, otherwise as a MapBlock."""
    try:
        inspect.signature(module.forward).bind(None, None)
    except TypeError:
        return MapBlock(module)
    return module


def relation_blocks(model: nn.Module) -> dict[str, RelationBlock]:
    """The relation blocks within ``model`` by their names, in the order of its modules; among them
    the MapBlocks of an ENL_FPN's levels without one, which are identities."""
    return {name: m for name, m in model.named_modules() if isinstance(m, RelationBlock)}


def build_block(
    block: str, channels: int, block_options: Mapping[str, Any] | None, zero_init_residual: bool
) -> nn.Module:
    """The block registered as ``block``, as the identity if ``zero_init_residual``.

    Raises InvalidOption (a ValueError), which names the wrong argument; TypeError if a
    RelationBlock doesn't keep an option as an attribute.
    """
    check_registered("block", block, RELATION_BLOCK_REGISTRY)
    kind, options = RELATION_BLOCK_REGISTRY.get(block), dict(block_options or {})
    names = option_names(kind)
    for name, value in options.items():
        if name not in names:
            wrong = f"{name}={value!r}, but {block} has no option {name!r}"
            raise InvalidOption("block_options", f"holds {wrong}; it takes {', '.join(names)}")
    module = as_block(kind(channels, **options))
    if isinstance(module, RelationBlock) and not isinstance(module, MapBlock):
        forgotten = [name for name in names if not hasattr(module, name)]
        if forgotten:
            raise TypeError(f"{block} must keep its option {forgotten[0]} as self.{forgotten[0]}")
    if zero_init_residual:
        module.zero_init()  # type: ignore[operator]
    return module


def check_registered(option: str, name: str, registry: Registry) -> None:
    """Raises InvalidOption unless ``name`` is in ``registry``."""
    if name not in registry:
        known = ", ".join(sorted(known for known, _ in registry))
        raise InvalidOption(
            option,
            f"must be one of {known}, got {name!r}; one of your own must be imported first "
            "(--import FILE.py of this project's commands)",
        )


def config_node(cfg: CfgNode, name: str) -> CfgNode:
    """``cfg.MODEL.<name>``; raises ValueError if add_enl_config hasn't put it there."""
    if name not in cfg.MODEL:
        remedy = "call enl_detectron2.add_enl_config(cfg) before cfg.merge_from_file(...)"
        raise ValueError(f"there is no MODEL.{name}: {remedy}")
    return cfg.MODEL[name]


def block_arguments(node: CfgNode) -> dict[str, Any]:
    """The arguments that both backbones take from a node; an option None is the block's default."""
    options = {name: value for name, value in node.BLOCK_OPTIONS.items() if value is not None}
    if not any(value is not None for value in options.get("position_options", {}).values()):
        options.pop("position_options", None)  # which a block without positions doesn't have
    return {
        "block_options": options,
        "zero_init_residual": node.ZERO_INIT_RESIDUAL,
        "attend_to_padding": node.ATTEND_TO_PADDING,
    }
