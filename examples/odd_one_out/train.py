#!/usr/bin/env python
"""Trains and evaluates; KEY VALUE pairs on the command line override the configuration."""

import sys
from pathlib import Path

import odd_one_out

from enl_detectron2.model_zoo import get_config_file
from enl_detectron2.training.config import get_training_cfg, merge_file, merge_options
from enl_detectron2.training.trainer import Trainer


def main():
    cfg = get_training_cfg()
    merge_file(cfg, get_config_file("cpu/Base-slim-RCNN-FPN.yaml"))
    merge_file(cfg, Path(__file__).with_name("odd_one_out.yaml"))
    merge_options(cfg, sys.argv[1:])
    Path(cfg.OUTPUT_DIR).mkdir(parents=True, exist_ok=True)
    odd_one_out.register(Path(cfg.OUTPUT_DIR, "images"))
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=False)
    trainer.train()


if __name__ == "__main__":
    main()
