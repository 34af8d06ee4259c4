#!/usr/bin/env python
"""Trains and evaluates; KEY VALUE pairs on the command line override the configuration."""

import sys
from pathlib import Path

import odd_one_out

from enl_detectron2.model_zoo import get_config_file
from enl_detectron2.training.config import get_training_cfg
from enl_detectron2.training.trainer import Trainer


def main():
    cfg = get_training_cfg()
    cfg.merge_from_file(get_config_file("cpu/Base-slim-RCNN-FPN.yaml"))
    cfg.merge_from_file(str(Path(__file__).with_name("odd_one_out.yaml")))
    cfg.merge_from_list(sys.argv[1:])
    Path(cfg.OUTPUT_DIR).mkdir(parents=True, exist_ok=True)
    odd_one_out.register(Path(cfg.OUTPUT_DIR, "images"))
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=False)
    trainer.train()


if __name__ == "__main__":
    main()
