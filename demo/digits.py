#!/usr/bin/env python
"""Draws the relational digits, trains a slim ENL Faster R-CNN on the CPU, and shows what it finds.

``make demo``. A run that was stopped goes on where its last checkpoint lies.
"""

import argparse
import contextlib
import io
import logging
import os
import sys
import time
from pathlib import Path

from contact_sheet import draw_contact_sheet  # beside this file
from detectron2.engine import HookBase, default_argument_parser, default_setup, launch
from detectron2.utils import comm
from scenes import DEMO, DEMO_COUNTS, write_relational_digits
from tqdm import tqdm

from enl_detectron2.training.config import load_config
from enl_detectron2.training.data import register_coco_format
from enl_detectron2.training.trainer import Trainer
from enl_detectron2.utils.command_line import run

ROOT = Path(__file__).resolve().parents[1]
# Of one thread each. For layers as small as these, that is twice as fast as two threads.
PROCESSES = 2


class ProgressBar(HookBase):
    """Steps done, the loss, and the time left."""

    def before_train(self):
        trainer = self.trainer
        self.bar = tqdm(
            total=trainer.max_iter, initial=trainer.start_iter, unit="step", file=sys.stdout
        )

    def after_step(self):
        loss = self.trainer.storage.history("total_loss").median(20)
        self.bar.set_postfix(loss=f"{loss:.2f}", refresh=False)
        self.bar.update()

    def after_train(self):
        self.bar.close()


class DemoTrainer(Trainer):
    """The project's trainer with a progress bar, which closes before the evaluation prints."""

    def build_hooks(self):
        progress = [ProgressBar()] if comm.is_main_process() else []
        return progress + super().build_hooks()


def show_evaluation() -> None:
    """Prints the evaluator's tables; everything else goes to the log file only."""
    handler = logging.StreamHandler(sys.stdout)
    handler.addFilter(lambda record: record.name == "detectron2.evaluation.coco_evaluation")
    logging.getLogger("detectron2").addHandler(handler)


def train(args: argparse.Namespace) -> None:
    """What each of the processes does that train the model together."""
    start = time.monotonic()
    with contextlib.redirect_stdout(io.StringIO()):  # detectron2 logs all it knows here
        cfg = load_config(args.config_file, args.opts)
        register_coco_format(cfg.DATASETS.COCO_FORMAT)
        default_setup(cfg, args)
        trainer = DemoTrainer(cfg)
    output = Path(cfg.OUTPUT_DIR)
    if comm.is_main_process():
        print(f"2/3 training on the CPU, {cfg.SOLVER.MAX_ITER} steps; log: {output}/log.txt")
        show_evaluation()
    trainer.resume_or_load(resume=args.resume)
    trainer.train()
    if not comm.is_main_process():
        return

    print("3/3 detections of test scenes beside their ground truth")
    sheet = output / "contact_sheet.png"
    draw_contact_sheet(
        cfg.DATASETS.TEST[0], output / "inference/coco_instances_results.json", sheet
    )
    metrics = trainer.storage.latest()
    ap, ap50, aps = (metrics[f"bbox/{name}"][0] for name in ("AP", "AP50", "APs"))
    print(
        f"\nBox AP {ap:.1f}, AP50 {ap50:.1f}, small objects' AP {aps:.1f} on 200 test scenes, "
        f"after {time.monotonic() - start:.0f} s.\n"
        f"Look at {sheet}; weights, log and metrics lie beside it. To start anew, delete {output}."
    )


def main() -> None:
    os.chdir(ROOT)
    print("1/3 the data: scenes of relational digits, in output/digits", flush=True)
    write_relational_digits("output/digits", **DEMO_COUNTS, config=DEMO)
    args = default_argument_parser().parse_args(
        ["--config-file", "configs/cpu/digits_enl_rcnn.yaml", "--resume", *sys.argv[1:]]
    )
    # detectron2 would give each process a GPU if it saw one, and refuse if there are too few.
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    launch(train, PROCESSES, dist_url="auto", args=(args,))


if __name__ == "__main__":
    run(main)
