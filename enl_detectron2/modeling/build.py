"""Relation blocks by name, and the step from a configuration to a block."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from detectron2.config import CfgNode
from detectron2.utils.registry import Registry
from torch import Tensor, nn

from enl_detectron2.layers import (
    Conv5x5Block,
    ENLBlock,
    InvalidOption,
    NonLocalBlock,
    RelationBlock,
)
from enl_detectron2.layers.relation_block import check_choice

RELATION_BLOCK_REGISTRY = Registry("RELATION_BLOCK")
RELATION_BLOCK_REGISTRY.__doc__ = """
Blocks that relate the positions of one feature map, (B, C, H, W) in and the same out.

A registered class is called as ``block(channels, **options)``: ``channels`` is C, and the options
are those of ``MODEL.ENL_FPN.BLOCK_OPTIONS``, or a LazyConfig's ``block_options``, with the names
and defaults of its signature.

A block whose ``forward(x, extent)`` takes two arguments gets where each image ends:
:func:`enl_detectron2.layers.inside` makes the mask of it, so that a mean over an image is
``(x * inside(extent, x)).sum((2, 3)) / inside(extent, x).sum((2, 3))``. One whose ``forward(x)``
takes the map alone gets the padding, too. Derived from
:class:`enl_detectron2.layers.RelationBlock` and given its ``zero_init``, it can start as the
identity.
"""
RELATION_BLOCK_REGISTRY.register(ENLBlock)
RELATION_BLOCK_REGISTRY.register(NonLocalBlock)
RELATION_BLOCK_REGISTRY.register(Conv5x5Block)


class MapBlock(RelationBlock):
    """A module that is called with a map alone, as a block: ``z = module(x)``."""

    def __init__(self, module: nn.Module):
        super().__init__()
        self.module = module

    def forward(self, x: Tensor, extent: Tensor | None = None) -> Tensor:
        return self.module(x)

    def zero_init(self) -> None:
        raise ValueError(
            f"starting as the identity (zero_init_residual) needs a RelationBlock with its "
            f"zero_init; {type(self.module).__name__} is none"
        )


def as_relation_block(module: nn.Module) -> nn.Module:
    """The module itself if it can be called as ``module(x, extent)``, otherwise as a MapBlock."""
    try:
        inspect.signature(module.forward).bind(None, None)
    except TypeError:
        return MapBlock(module)
    return module


def relation_blocks(model: nn.Module) -> dict[str, RelationBlock]:
    """The relation blocks within ``model`` by their names, in the order of its modules."""
    return {
        name: module for name, module in model.named_modules() if isinstance(module, RelationBlock)
    }


def check_registered(registry: Registry, name: str, key: str) -> None:
    """Raises ValueError, with the names that there are, unless ``registry`` knows ``name``."""
    check_choice(key, name, sorted(registered for registered, _ in registry))


def option_names(block: str) -> list[str]:
    """The options that the registered ``block`` takes: its arguments after ``channels``."""
    return list(inspect.signature(RELATION_BLOCK_REGISTRY.get(block)).parameters)[1:]


def build_relation_block(
    block: str,
    channels: int,
    options: Mapping[str, Any] | None = None,
    *,
    zero_init: bool = False,
    words: Sequence[str] = ("block", "block_options"),
) -> nn.Module:
    """The block that is registered as ``block``, which ``zero_init`` makes the identity.

    Raises:
        ValueError: if the block or an option is unknown or wrong, or the block can't start as the
            identity; a sentence in the user's ``words`` for the two.
    """
    check_registered(RELATION_BLOCK_REGISTRY, block, words[0])
    names, options = option_names(block), dict(options or {})
    for name, value in options.items():
        if name not in names:
            raise ValueError(
                f"{words[1]}: {block} has no option {name!r} (got {value!r}); "
                f"it takes {', '.join(names)}"
            )
    try:
        module = RELATION_BLOCK_REGISTRY.get(block)(channels, **options)
    except InvalidOption as error:
        raise ValueError(f"{words[1]} of {block}: {error}") from error
    module = as_relation_block(module)
    if zero_init:
        module.zero_init()  # type: ignore[operator]
    return module


def options_of(node: CfgNode) -> dict[str, Any]:
    """What a node ``BLOCK_OPTIONS`` sets; None leaves an option at the block's own default."""
    return {name: value for name, value in node.items() if value is not None}


def require_node(cfg: CfgNode, name: str) -> CfgNode:
    """``cfg.MODEL.<name>``; raises ValueError if add_enl_config hasn't put it there."""
    if name not in cfg.MODEL:
        raise ValueError(
            f"there is no MODEL.{name}: call enl_detectron2.add_enl_config(cfg) before "
            "cfg.merge_from_file(...)"
        )
    return cfg.MODEL[name]
