"""Efficient coarse-to-fine non-local blocks for detectron2's feature pyramids.

``import enl_detectron2`` registers the backbones and the blocks where detectron2 is installed.
Without it, ``enl_detectron2.layers`` works all the same: the blocks are plain PyTorch.
"""

import importlib.util

if importlib.util.find_spec("detectron2"):
    from . import model_zoo
    from .config import add_enl_config

    __all__ = ["add_enl_config", "model_zoo"]
