from .check_sets import check_data_sets, class_names, prepare_sets
from .coco_format import register_coco_format

__all__ = ["check_data_sets", "class_names", "prepare_sets", "register_coco_format"]
