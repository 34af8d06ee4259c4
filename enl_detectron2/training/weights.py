"""Whether the weights that a configuration names are there, before anything else is read."""

import logging
import socket

from detectron2.layers import FrozenBatchNorm2d
from torch import nn

from enl_detectron2.utils.errors import ConfigError

from .checkpoint import find_weights

logger = logging.getLogger(__name__)

PATIENCE = 60  # seconds until a server must have answered


def check_weights(key: str, path: str, *, required: bool) -> None:
    """Finds the file of ``path``, which is downloaded if it is a URL.

    Args:
        key: of the configuration, for messages.
        path: of its value; "" is none.
        required: whether there must be one.

    Raises:
        MissingFile: (a FileNotFoundError) if it isn't there.
        ConfigError: (a ValueError) if there must be one, but isn't.
    """
    if not path:
        if required:
            raise ConfigError(f"{key} is empty: it must name the weights of a trained model")
        return
    before = socket.getdefaulttimeout()
    try:
        # iopath waits for a server as long as Python does by itself, which is for ever.
        socket.setdefaulttimeout(PATIENCE)
        find_weights(path)
    finally:
        socket.setdefaulttimeout(before)


def warn_if_frozen_though_random(key: str, path: str, model: nn.Module) -> None:
    """Logs a warning when frozen layers meet random weights.

    Frozen batch norm doesn't normalise what it has no statistics of, so that activations grow from
    layer to layer, and losses are huge or not finite; other frozen layers just stay random.
    """
    norms = sum(isinstance(module, FrozenBatchNorm2d) for module in model.modules())
    frozen = sum(not parameter.requires_grad for parameter in model.parameters())
    if not path and (norms or frozen):
        logger.warning(
            "%s is empty, so all weights are random, but %d batch norms and %d parameters are "
            "frozen: the training may diverge. Name weights, or train all layers "
            "(MODEL.RESNETS.NORM BN, MODEL.BACKBONE.FREEZE_AT 0; in a LazyConfig norm, freeze_at).",
            key,
            norms,
            frozen,
        )
