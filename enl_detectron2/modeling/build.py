"""Relation blocks by name, and the step from a configuration to a block."""

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from detectron2.config import CfgNode
from detectron2.utils.registry import Registry
from torch import nn

from enl_detectron2.layers import Conv5x5Block, ENLBlock, MapBlock, NonLocalBlock, RelationBlock
from enl_detectron2.layers.relation_block import InvalidOption, check_choice, option_names

Function = TypeVar("Function", bound=Callable)

RELATION_BLOCK_REGISTRY = Registry("RELATION_BLOCK")
RELATION_BLOCK_REGISTRY.__doc__ = """
Blocks that relate the positions of one feature map, (B, C, H, W) in and the same out.

A registered class is called as ``block(channels, **options)`` with the C channels and what
``MODEL.ENL_FPN.BLOCK_OPTIONS``, or a LazyConfig's ``block_options``, say by its arguments' names.

A block whose ``forward(x, extent)`` takes two arguments gets where each image ends, and
:func:`enl_detectron2.layers.inside` makes the mask of it: an image's mean is
``(x * inside(extent, x)).sum((2, 3)) / inside(extent, x).sum((2, 3))``. One whose ``forward(x)``
takes the map alone gets the padding, too. A :class:`enl_detectron2.layers.RelationBlock` with its
``zero_init`` can start as the identity.
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
    """The relation blocks within ``model`` by their names, in the order of its modules."""
    return {name: m for name, m in model.named_modules() if isinstance(m, RelationBlock)}


def build_block(
    block: str, channels: int, block_options: Mapping[str, Any] | None, zero_init_residual: bool
) -> nn.Module:
    """The block that is registered as ``block``, which ``zero_init_residual`` makes the identity.

    Raises InvalidOption (a ValueError), which names the argument that is wrong.
    """
    check_choice("block", block, sorted(name for name, _ in RELATION_BLOCK_REGISTRY))
    kind, options = RELATION_BLOCK_REGISTRY.get(block), dict(block_options or {})
    names = option_names(kind)
    for name, value in options.items():
        if name not in names:
            wrong = f"{name}={value!r}, but {block} has no option {name!r}"
            raise InvalidOption("block_options", f"holds {wrong}; it takes {', '.join(names)}")
    try:
        module = as_block(kind(channels, **options))
    except InvalidOption as error:
        raise InvalidOption("block_options", f"of {block}: {error}") from error
    if zero_init_residual:
        module.zero_init()  # type: ignore[operator]
    return module


def config_node(cfg: CfgNode, name: str) -> CfgNode:
    """``cfg.MODEL.<name>``; raises ValueError if add_enl_config hasn't put it there."""
    if name not in cfg.MODEL:
        remedy = "call enl_detectron2.add_enl_config(cfg) before cfg.merge_from_file(...)"
        raise ValueError(f"there is no MODEL.{name}: {remedy}")
    return cfg.MODEL[name]


def block_arguments(node: CfgNode) -> dict[str, Any]:
    """The arguments that both backbones take from a node; an option None is the block's default."""
    return {
        "block_options": {k: value for k, value in node.BLOCK_OPTIONS.items() if value is not None},
        "zero_init_residual": node.ZERO_INIT_RESIDUAL,
        "attend_to_padding": node.ATTEND_TO_PADDING,
    }


def naming_keys(node: str, **keys: str) -> Callable[[Function], Function]:
    """Decorates what is called with a CfgNode, or else with arguments, so that its errors name the
    key ``MODEL.<node>.<ARGUMENT>``, or what ``keys`` say, if it was called with a CfgNode."""

    def decorate(function: Function) -> Function:
        @functools.wraps(function)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            try:
                return function(*args, **kwargs)
            except InvalidOption as error:
                if not any(isinstance(value, CfgNode) for value in (*args, *kwargs.values())):
                    raise
                key = f"MODEL.{node}.{error.option.upper().replace('.', '_')}"
                raise ValueError(f"{keys.get(error.option, key)} {error.problem}") from error

        return wrapped  # type: ignore[return-value]

    return decorate
