#!/usr/bin/env python
"""Trains and evaluates; KEY VALUE pairs on the command line override the configuration."""

import sys
from pathlib import Path

import odd_one_out
from detectron2.config import get_cfg
from detectron2.engine import DefaultTrainer
from detectron2.evaluation import COCOEvaluator

import enl_detectron2


class Trainer(DefaultTrainer):
    @classmethod
    def build_evaluator(cls, cfg, dataset_name):
        return COCOEvaluator(dataset_name, output_dir=cfg.OUTPUT_DIR)


def main():
    cfg = get_cfg()
    enl_detectron2.add_enl_config(cfg)
    cfg.MODEL.ENL_FPN.REDUCTION = 2  # DifferenceBlock's own key
    cfg.merge_from_file(enl_detectron2.model_zoo.get_config_file("cpu/Base-slim-RCNN-FPN.yaml"))
    cfg.merge_from_file(str(Path(__file__).with_name("odd_one_out.yaml")))
    cfg.merge_from_list(sys.argv[1:])
    Path(cfg.OUTPUT_DIR).mkdir(parents=True, exist_ok=True)
    odd_one_out.register(Path(cfg.OUTPUT_DIR, "images"))
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=False)
    trainer.train()


if __name__ == "__main__":
    main()
