"""Optimizers for LazyConfigs, whose YAML counterparts detectron2 puts together from keys."""

from collections.abc import Iterable
from typing import Any

import torch
from detectron2.config import get_cfg
from detectron2.solver.build import maybe_add_gradient_clipping


def with_clipped_gradients(
    optimizer: type[torch.optim.Optimizer],
    params: Iterable[Any],
    *,
    clip_norm: float,
    **options: Any,
) -> torch.optim.Optimizer:
    """What ``SOLVER.CLIP_GRADIENTS`` with the type "norm" is in YAML.

    Args:
        optimizer: the class, as ``torch.optim.SGD``.
        params: its parameters, or groups of them.
        clip_norm: the largest norm that the gradient of one parameter keeps.
        options: of the class.
    """
    cfg = get_cfg()
    cfg.SOLVER.CLIP_GRADIENTS.ENABLED = True
    cfg.SOLVER.CLIP_GRADIENTS.CLIP_TYPE = "norm"
    cfg.SOLVER.CLIP_GRADIENTS.CLIP_VALUE = clip_norm
    return maybe_add_gradient_clipping(cfg, optimizer)(params, **options)
