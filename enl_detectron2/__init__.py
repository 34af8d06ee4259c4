"""Efficient coarse-to-fine non-local blocks for detectron2's feature pyramids."""

from . import model_zoo
from . import modeling as _modeling  # registers the backbones and the blocks
from .config import add_enl_config

__all__ = ["add_enl_config", "model_zoo"]
