"""Efficient coarse-to-fine non-local blocks for detectron2's feature pyramids.

``import enl_detectron2`` registers the backbones and the blocks. Where detectron2 is not
installed, ``enl_detectron2.layers`` can be used all the same: the blocks are plain PyTorch.
"""

try:
    import detectron2  # noqa: F401
except ModuleNotFoundError as error:
    if error.name != "detectron2":
        raise
else:
    from . import model_zoo
    from .config import add_enl_config, add_training_config

    __all__ = ["add_enl_config", "add_training_config", "model_zoo"]
