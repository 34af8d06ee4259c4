"""Efficient coarse-to-fine non-local blocks for detectron2's feature pyramids.

``import enl_detectron2`` registers the backbones and the blocks. Where detectron2 or a
package that it needs is not installed, ``enl_detectron2.layers`` can be used all the same: the
blocks are plain PyTorch.
"""

try:
    from . import model_zoo
    from .config import add_enl_config, add_training_config
except ModuleNotFoundError as error:
    if (error.name or "").startswith(__name__):
        raise
    _missing = error

    def __getattr__(name: str) -> None:
        if name in ("add_enl_config", "add_training_config", "model_zoo"):
            raise ImportError(f"enl_detectron2.{name} needs {_missing.name}: {_missing}")
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

else:
    __all__ = ["add_enl_config", "add_training_config", "model_zoo"]
