"""detectron2's trainer with the COCO evaluator, and the set-up of one run."""

import argparse
import os

from detectron2.config import CfgNode, get_cfg
from detectron2.data import MetadataCatalog
from detectron2.engine import DefaultTrainer, default_setup
from detectron2.evaluation import COCOEvaluator

from .config import add_enl_config
from .data import register_coco_format

COCO_MAX_DETECTIONS = 100  # an image, in COCO's own metrics


class Trainer(DefaultTrainer):
    """detectron2's ``DefaultTrainer``, evaluated by its ``COCOEvaluator``."""

    @classmethod
    def build_evaluator(
        cls, cfg: CfgNode, dataset_name: str, output_folder: str | None = None
    ) -> COCOEvaluator:
        """The COCO evaluator, which counts as many detections an image as the model may give.

        COCO's 100 detections an image would cut the recall on images with more objects, so
        ``TEST.DETECTIONS_PER_IMAGE`` raises the evaluator's limit; below 100 it stays COCO's.

        Raises:
            ValueError: if the set isn't evaluated by COCO's metrics.
        """
        kind = MetadataCatalog.get(dataset_name).get("evaluator_type")
        if kind != "coco":
            raise ValueError(
                f"DATASETS.TEST: {dataset_name!r} has the evaluator type {kind!r}; "
                "this trainer evaluates sets of type 'coco'"
            )
        return COCOEvaluator(
            dataset_name,
            output_dir=output_folder or os.path.join(cfg.OUTPUT_DIR, "inference"),
            max_dets_per_image=max(COCO_MAX_DETECTIONS, cfg.TEST.DETECTIONS_PER_IMAGE),
        )


def setup(args: argparse.Namespace) -> CfgNode:
    """The configuration of a run, frozen, with its data sets registered and its logger started.

    Args:
        args: of detectron2's ``default_argument_parser``.

    Raises:
        FileNotFoundError: if a file or folder of ``DATASETS.COCO_FORMAT`` isn't there.
    """
    cfg = get_cfg()
    add_enl_config(cfg)
    cfg.merge_from_file(args.config_file)
    cfg.merge_from_list(args.opts)
    register_coco_format(cfg.DATASETS.COCO_FORMAT)
    cfg.freeze()
    default_setup(cfg, args)
    return cfg
