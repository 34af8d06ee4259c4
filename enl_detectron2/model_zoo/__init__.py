from . import efficientnet_lite  # noqa: F401  registers its backbone
from .model_zoo import PHOTOGRAPHS, get, get_checkpoint_file, get_config, get_config_file

__all__ = ["PHOTOGRAPHS", "get", "get_checkpoint_file", "get_config", "get_config_file"]
