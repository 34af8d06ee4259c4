from .coco_format import register_coco_format

__all__ = ["register_coco_format"]
