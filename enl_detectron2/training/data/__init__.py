from .check_sets import check_data_sets
from .coco_format import register_coco_format

__all__ = ["check_data_sets", "register_coco_format"]
