"""A run from a LazyConfig, put together as in detectron2's ``tools/lazyconfig_train_net.py``."""

import argparse
import copy
from typing import Any

from detectron2.config import instantiate
from detectron2.engine import AMPTrainer, SimpleTrainer, default_writers, hooks
from detectron2.evaluation import COCOEvaluator, inference_on_dataset, print_csv_format
from detectron2.utils import comm
from omegaconf import DictConfig, ListConfig, OmegaConf
from torch import nn

from .checkpoint import ENLCheckpointer
from .common import (
    COCO_MAX_DETECTIONS,
    in_fast_layout,
    own_hooks,
    prepare_run,
    repeatable,
    replicate,
)
from .config import load_config
from .data import class_names, prepare_sets
from .data.images import deep_images_of
from .data.loader import CheckedMapper
from .evaluation import MOST_IN_TILES, evaluated, tile_of

# Of detections in an image: R-CNN's and the one-stage detectors'.
LIMITS = ("model.roi_heads.box_predictor.test_topk_per_image", "model.max_detections_per_image")
CLASSES = ("model.roi_heads.num_classes", "model.num_classes")


def setup(args: argparse.Namespace) -> DictConfig:
    """The configuration of a run; its folder and log are there, its sets registered.

    As ``DATASETS.COCO_FORMAT`` in YAML, ``dataloader.coco_format`` names sets in COCO format
    without code: ``[[name, annotation file, image folder], …]``. The names may then be used as
    ``dataloader.train.dataset.names`` and ``dataloader.test.dataset.names``.

    Args:
        args: of detectron2's ``default_argument_parser``.

    Raises:
        UserError: if a file isn't there, a data set has errors or doesn't fit the model, or another
            process trains in the folder.
    """
    cfg = load_config(args.config_file, args.opts)
    prepare_run(cfg, args)
    sets = OmegaConf.select(cfg, "dataloader.coco_format", default=[])
    numbers = {key: OmegaConf.select(cfg, key) for key in CLASSES}
    key = next((key for key, number in numbers.items() if isinstance(number, int)), CLASSES[0])
    mapper = OmegaConf.select(cfg, "dataloader.train.mapper", default={})
    prepare_sets(
        [] if args.eval_only else set_names(cfg, "train"),
        set_names(cfg, "test"),
        coco_format=OmegaConf.to_container(sets) if OmegaConf.is_config(sets) else sets,
        keypoints=bool(mapper.get("use_keypoint", False)),
        output_dir=cfg.train.output_dir,
        num_classes=numbers[key],
        num_classes_key=key,
        masks=bool(mapper.get("use_instance_mask", False)),
        mask_format=mapper.get("instance_mask_format", "polygon"),
        filter_empty=OmegaConf.select(cfg, "dataloader.train.dataset.filter_empty", default=True),
    )
    return cfg


def set_names(cfg: DictConfig, part: str) -> list[str]:
    """The sets of ``dataloader.train`` or ``.test``; none if it is another kind of loader."""
    names = OmegaConf.select(cfg, f"dataloader.{part}.dataset.names")
    if isinstance(names, str):
        return [names]
    return list(names) if isinstance(names, ListConfig) else []


def main(args: argparse.Namespace) -> dict[str, Any] | None:
    """Trains, or with ``--eval-only`` evaluates and gives the metrics on the main process.

    Args:
        args: of detectron2's ``default_argument_parser``; the file defines model, dataloader,
            optimizer, lr_multiplier and train, as detectron2's own do.
    """
    cfg = setup(args)
    model = in_fast_layout(instantiate(cfg.model), cfg.train.device)
    if not args.eval_only:
        return _train(cfg, args, model)
    model = replicate(model, cfg.train.device)
    names = class_names(set_names(cfg, "test"))
    checkpointer = ENLCheckpointer(model, cfg.train.output_dir, complete=True, class_names=names)
    checkpointer.resume_or_load(cfg.train.init_checkpoint, resume=args.resume)
    return _test(cfg, model)


def _train(cfg: DictConfig, args: argparse.Namespace, model: nn.Module) -> None:
    seed = cfg.train.get("seed", -1)
    cfg.optimizer.params.model = model
    optimizer = instantiate(cfg.optimizer)
    loader = repeatable(
        instantiate(cfg.dataloader.train),
        seed,
        cfg.train.get("on_bad_image", "stop"),
        deep_images_of(cfg),
    )
    model = replicate(model, cfg.train.device, **cfg.train.ddp)
    trainer = (AMPTrainer if cfg.train.amp.enabled else SimpleTrainer)(model, loader, optimizer)
    names = class_names(set_names(cfg, "train"))
    checkpointer = ENLCheckpointer(model, cfg.train.output_dir, class_names=names, trainer=trainer)
    is_main = comm.is_main_process()
    # In this order: a checkpoint is there if the evaluation fails, and the writers see its metrics.
    trainer.register_hooks(
        [
            *own_hooks(seed),
            hooks.IterationTimer(),
            hooks.LRScheduler(scheduler=instantiate(cfg.lr_multiplier)),
            hooks.PeriodicCheckpointer(checkpointer, **cfg.train.checkpointer) if is_main else None,
            hooks.EvalHook(cfg.train.eval_period, lambda: _test(cfg, model)),
            hooks.PeriodicWriter(
                default_writers(cfg.train.output_dir, cfg.train.max_iter),
                period=cfg.train.log_period,
            )
            if is_main
            else None,
        ]
    )
    checkpointer.resume_or_load(cfg.train.init_checkpoint, resume=args.resume)
    resumed = args.resume and checkpointer.has_checkpoint()
    trainer.train(trainer.iter + 1 if resumed else 0, cfg.train.max_iter)


def _test(cfg: DictConfig, model: nn.Module) -> dict[str, Any] | None:
    if "evaluator" not in cfg.dataloader:
        return None
    deep, test = deep_images_of(cfg), copy.deepcopy(cfg.dataloader.test)
    mapper = instantiate(test.get("mapper"))
    if mapper is not None:
        test.mapper = CheckedMapper(mapper, deep)
    with evaluated(model, tile_of(cfg), mapper, deep) as seen:
        results = inference_on_dataset(seen, instantiate(test), instantiate(evaluator_config(cfg)))
    if comm.is_main_process():
        print_csv_format(results)
    return results


def evaluator_config(cfg: DictConfig) -> Any:
    """The evaluator's configuration; COCO's own has the model's limit of detections if that is
    above COCO's and it has none, as from YAML; in tiles there is no limit."""
    evaluator = copy.deepcopy(cfg.dataloader.evaluator)
    limits = (OmegaConf.select(cfg, key) for key in LIMITS)
    limit = max((limit for limit in limits if isinstance(limit, int)), default=0)
    if tile_of(cfg) > 0:
        limit = MOST_IN_TILES
    kind = OmegaConf.select(evaluator, "_target_")
    is_coco = kind is COCOEvaluator or str(kind).endswith("COCOEvaluator")
    if is_coco and limit > COCO_MAX_DETECTIONS and evaluator.get("max_dets_per_image") is None:
        evaluator.max_dets_per_image = limit
    return evaluator
