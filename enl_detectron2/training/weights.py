"""Weights that a training starts from."""

import logging

from detectron2.layers import FrozenBatchNorm2d
from torch import nn

logger = logging.getLogger(__name__)


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
