#!/usr/bin/env python
"""Trains the papers' systems on scenes that only their relations explain, and on nuclei.

    python benchmarks/relations/experiment.py --workers 2

All systems of a seed start as the same plain detector, which has learned digits on clear scenes
without any relation: what pretrained weights are to the papers. Its stem, res2 and batch norm stay
as they are, and each block starts as the identity. Nuclei start from ImageNet, see nuclei.py, and
are left out where their images or the pretrained network aren't there.

Takes hours. It may be stopped at any time and goes on where it was: a finished run is a line of
results/runs.jsonl, an unfinished one resumes from its last checkpoint. report.py makes the report.
"""

import argparse
import itertools
import json
import math
import sys
from dataclasses import asdict, astuple, dataclass
from pathlib import Path

import nuclei
import scenes
from jobs import append_line, in_own_process, in_parallel, locked, read_lines
from paths import FOLDER, OUTPUT, RESULTS
from systems import ABLATION, BASELINE, OWN_START, PROPOSED, SYSTEMS

RUNS = RESULTS / "runs.jsonl"
SCENES = {"num_train": 4000, "num_test": 500}
START_SETTING = ("clear", "none")
START_OPTIONS = {
    "MODEL.WEIGHTS": "",
    "MODEL.BACKBONE.FREEZE_AT": 0,
    "MODEL.RESNETS.NORM": "BN",
}
SEEDS = (1, 2, 3, 4, 5)  # of the main setting
FEWER_SEEDS = (1, 2, 3)  # of others
# Where a large relative is alone a scene has one tiny digit to learn from, a thirteenth of the main
# setting's: the same again with this many times as many scenes and steps.
LONGER = 6
LONG_VARIANT = f"large ×{LONGER}"
LONG_SEEDS = (1, 2)  # of half an hour each
PROBED_IMAGES = 20  # for the size of what the blocks add


@dataclass(frozen=True)
class Run:
    """One training.

    Attributes:
        system: a key of ``SYSTEMS``.
        data: a level of the digits, or "nuclei".
        variant: the relation of the digits' scenes, or ``LONG_VARIANT``, which is "large" for
            longer; or what the nuclei start from.
        seed: of the weights and the order of images; digits start from the seed's plain detector.
    """

    system: str
    data: str
    variant: str
    seed: int

    @property
    def name(self) -> str:
        return "_".join(str(part).replace(" ", "-") for part in astuple(self))

    @property
    def folder(self) -> Path:
        return OUTPUT / "runs" / self.name

    @property
    def relation(self) -> str:
        """Of the digits' scenes."""
        return "large" if self.is_long else self.variant

    @property
    def is_long(self) -> bool:
        return self.variant == LONG_VARIANT

    @property
    def is_start(self) -> bool:
        return (self.data, self.variant) == START_SETTING

    @property
    def start(self) -> "Run":
        """The training whose weights this one starts from."""
        return Run(self.system if self.system in OWN_START else BASELINE, *START_SETTING, self.seed)

    @property
    def weights(self) -> Path:
        """What the training ends with."""
        return self.folder / "model_final.pth"


def grid() -> list[Run]:
    """All runs, those first that say most."""
    main = (scenes.MAIN_LEVEL, scenes.MAIN_RELATION)
    runs = [Run(system, *main, seed) for system in (BASELINE, PROPOSED) for seed in SEEDS]
    # The control, in which nothing can be gained.
    control = (scenes.MAIN_LEVEL, "none")
    runs += [Run(system, *control, seed) for seed in FEWER_SEEDS for system in (BASELINE, PROPOSED)]
    last = (ABLATION, *OWN_START)
    runs += [Run(system, *main, seed) for system in SYSTEMS if system not in last for seed in SEEDS]
    if nuclei.available():
        runs += [Run(system, "nuclei", *each) for each in nuclei.RUNS for system in nuclei.SYSTEMS]
    for seed in FEWER_SEEDS:
        # What separates the two mechanisms.
        for relation in scenes.RELATIONS:
            compared = (BASELINE, PROPOSED, "+1NL BU", "+3conv5 TD")
            runs += [Run(system, scenes.MAIN_LEVEL, relation, seed) for system in compared]
        for level in scenes.LEVELS:
            compared = (BASELINE, PROPOSED)
            runs += [Run(system, level, scenes.MAIN_RELATION, seed) for system in compared]
        runs += [Run(system, *main, seed) for system in last]
    long = (scenes.MAIN_LEVEL, LONG_VARIANT)
    runs += [Run(system, *long, seed) for seed in LONG_SEEDS for system in (BASELINE, PROPOSED)]
    return list(dict.fromkeys(runs))


# ---------------------------------------------------------------------------- all runs


def main() -> None:
    args = parse_args()
    if args.job:
        run = Run(**json.loads(args.job))
        if run.is_start:
            train(run)
        else:
            if run.data in scenes.LEVELS:
                train_start(run.start)
            train_and_record(run)
        return
    missing = [run for run in grid() if run not in finished()]
    print(f"{len(grid())} runs, {len(missing)} of them to do", flush=True)
    for run in missing:
        if run.data in scenes.LEVELS:
            for each in (run.start, run):
                write_scenes(each)  # before several processes want the same
    in_parallel(__file__, missing, args.workers)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workers", type=int, default=1, help="runs side by side, one thread each")
    parser.add_argument("--job", help=argparse.SUPPRESS)  # one run, as JSON; for its own process
    return parser.parse_args()


def finished() -> set[Run]:
    return {Run(**line["run"]) for line in read_lines(RUNS)}


def require_trained(runs: list[Run]) -> None:
    """Ends the program unless the weights of all of them are there."""
    missing = [run.name for run in runs if not run.weights.exists()]
    if missing:
        sys.exit(f"not trained yet, see experiment.py: {', '.join(missing)}")


# ---------------------------------------------------------------------------- one run


def write_scenes(run: Run) -> Path:
    """Writes the scenes that a run is about, unless they are there; gives their folder."""
    from enl_detectron2.digits.scenes import write_relational_digits

    folder = OUTPUT / "scenes" / f"{run.data}_{run.variant}".replace(" ", "-")
    count = SCENES | {"num_train": SCENES["num_train"] * (LONGER if run.is_long else 1)}
    write_relational_digits(folder, **count, config=scenes.scene_config(run.data, run.relation))
    return folder


def configuration(run: Run):
    """The detector of a run, as a detectron2 configuration."""
    from enl_detectron2.training.config import load_config

    options = SYSTEMS[run.system] | {"OUTPUT_DIR": str(run.folder), "SEED": run.seed}
    if run.data in scenes.LEVELS:
        config_file, data_options = FOLDER / "digits.yaml", digits_options(run)
    else:
        config_file, data_options = nuclei.CONFIG, nuclei.options(run.variant)
    options |= data_options
    cfg = load_config(str(config_file), [part for option in options.items() for part in option])
    if run.is_long:
        cfg.SOLVER.MAX_ITER *= LONGER
        cfg.SOLVER.STEPS = tuple(LONGER * step for step in cfg.SOLVER.STEPS)
    return cfg


def digits_options(run: Run) -> dict:
    """The scenes of a run, and what it starts from."""
    import small_resnet  # noqa: F401  registers the bottom-up

    data = write_scenes(run)
    names = {split: f"{data.name}_{split}" for split in ("train", "test")}
    sets = [[name, f"{data}/{split}.json", f"{data}/{split}"] for split, name in names.items()]
    return {
        "DATASETS.COCO_FORMAT": str(sets),
        "DATASETS.TRAIN": str((names["train"],)),
        "DATASETS.TEST": str((names["test"],)),
        "MODEL.WEIGHTS": str(run.start.weights),
        **(START_OPTIONS if run.is_start else {}),
    }


def train(run: Run):
    """Trains what is left of a run; gives its configuration and its trainer."""
    from detectron2.engine import default_argument_parser, default_setup

    from enl_detectron2.training.data import register_coco_format
    from enl_detectron2.training.trainer import Trainer

    cfg = configuration(run)
    cfg.freeze()
    register_coco_format(cfg.DATASETS.COCO_FORMAT)
    default_setup(cfg, default_argument_parser().parse_args([]))
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=True)
    trainer.train()
    return cfg, trainer


def train_start(start: Run) -> None:
    """Trains what runs start from, unless it is there; whoever else wants it waits meanwhile."""
    with locked(start.folder):
        if not start.weights.exists() and not in_own_process(__file__, start):
            sys.exit(f"failed: {start.folder}")


def train_and_record(run: Run) -> None:
    cfg, trainer = train(run)
    append_line(RUNS, {"run": asdict(run)} | results(run, cfg, trainer.model.eval()))


def results(run: Run, cfg, model) -> dict:
    """What the report needs of a trained model."""
    from detectron2.data import MetadataCatalog

    from enl_detectron2.analysis.cost.multiply_adds import count_multiply_adds
    from enl_detectron2.analysis.detections.errors import analyze_errors

    lines = (run.folder / "metrics.json").read_text().splitlines()
    metrics = [line for line in map(json.loads, lines) if "bbox/AP" in line][-1]
    errors = analyze_errors(
        MetadataCatalog.get(cfg.DATASETS.TEST[0]).json_file,
        {"": run.folder / "inference" / "coco_instances_results.json"},
    )[""]
    size = scenes.IMAGE_SIZE if run.data in scenes.LEVELS else nuclei.IMAGE_SIZE
    values = {name: metrics[f"bbox/{name}"] for name in ("AP", "AP50", "APs", "APm")}
    return {
        # JSON has no NaN, which is what COCO's evaluation says where there are no such objects.
        "metrics": {name: None if math.isnan(ap) else ap for name, ap in values.items()},
        "recall_by_side": {row.label: row.recall for row in errors.by_side},
        "recall_by_count": {row.label: row.recall for row in errors.by_count},
        "added_by_blocks": added_by_blocks(model, cfg),
        "parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "multiply_adds": sum(count_multiply_adds(model, (size, size)).values()),
        "steps": cfg.SOLVER.MAX_ITER,
    }


def added_by_blocks(model, cfg) -> dict[str, float]:
    """The norm of what each relation block adds, in multiples of its input's norm: a block that
    sleeps adds next to nothing."""
    import torch

    from enl_detectron2.analysis.cost.multiply_adds import relation_blocks
    from enl_detectron2.training.trainer import Trainer

    ratios: dict[str, list[float]] = {}
    for name, block in relation_blocks(model).items():

        def record(_, inputs, output, name=name):
            ratio = (output - inputs[0]).norm() / inputs[0].norm()
            ratios.setdefault(name, []).append(ratio.item())

        block.register_forward_hook(record)
    with torch.no_grad():
        test_loader = Trainer.build_test_loader(cfg, cfg.DATASETS.TEST[0])
        for inputs in itertools.islice(test_loader, PROBED_IMAGES):
            model(inputs)
    return {name: sum(values) / len(values) for name, values in ratios.items()}


if __name__ == "__main__":
    main()
