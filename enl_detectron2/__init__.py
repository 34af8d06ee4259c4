"""Efficient coarse-to-fine non-local blocks for detectron2's feature pyramids.

``import enl_detectron2`` registers the backbones and the blocks. Where detectron2 is not installed,
or can't be imported, ``enl_detectron2.layers`` can be used all the same: the blocks are plain
PyTorch.
"""

import warnings

try:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # at what detectron2's developers should replace
        import detectron2.modeling
except Exception as error:  # as of a package that it needs, or of versions that don't fit together
    _missing = error

    def __getattr__(name: str) -> None:
        if name in ("add_enl_config", "add_training_config", "model_zoo"):
            raise ImportError(
                f"enl_detectron2.{name} needs detectron2, which can't be imported: "
                f"{type(_missing).__name__}: {_missing}"
            ) from _missing
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

else:
    from . import model_zoo
    from .config import add_enl_config, add_training_config

    __all__ = ["add_enl_config", "add_training_config", "model_zoo"]
