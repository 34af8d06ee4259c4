"""A run from a LazyConfig, put together as in detectron2's ``tools/lazyconfig_train_net.py``."""

import argparse
from collections.abc import Iterable
from typing import Any

from detectron2.config import instantiate
from detectron2.engine import AMPTrainer, SimpleTrainer, default_writers, hooks
from detectron2.evaluation import inference_on_dataset, print_csv_format
from detectron2.utils import comm
from omegaconf import DictConfig, OmegaConf
from torch import nn

from enl_detectron2.modeling import relation_blocks
from enl_detectron2.modeling.enl_fpn import warn_of_black_padding

from .building import EarlyLog, building
from .checkpoint import ENLCheckpointer
from .checks import check_lazy, check_levels, lazy_names
from .config import load_config
from .data import check_data_sets, register_coco_format
from .data.images import deep_images_of
from .data.proposals import check_proposal_files
from .hooks import StopAtDivergence
from .parts import own_hooks, repeatable, replicate, seed_everything, start
from .resume import check_resume
from .weights import check_weights, warn_if_frozen_though_random

CLASSES = ("model.roi_heads.num_classes", "model.num_classes")


def configure(args: argparse.Namespace) -> DictConfig:
    """The configuration of a run; its data sets registered, nothing built or written.

    As ``DATASETS.COCO_FORMAT`` in YAML, ``dataloader.coco_format`` names sets in COCO format
    without code: ``[[name, annotation file, image folder], …]``. The names may then be used as
    ``dataloader.train.dataset.names`` and ``dataloader.test.dataset.names``.

    Args:
        args: of detectron2's ``default_argument_parser``.

    Raises:
        FileNotFoundError: if a file or folder that it names isn't there.
        ConfigError: (a ValueError) if the configuration can't be right.
    """
    cfg = load_config(args.config_file, args.opts)
    keypoints = OmegaConf.select(cfg, "dataloader.train.mapper.use_keypoint", default=False)
    register_coco_format(_coco_format(cfg), keypoints=bool(keypoints))
    check_lazy(cfg, eval_only=args.eval_only)
    train = cfg.train
    if not (args.resume and ENLCheckpointer(nn.Module(), train.output_dir).has_checkpoint()):
        check_weights("train.init_checkpoint", train.init_checkpoint, required=args.eval_only)
    return cfg


def _coco_format(cfg: DictConfig) -> list[list[str]]:
    entries = OmegaConf.select(cfg, "dataloader.coco_format", default=[])
    return OmegaConf.to_container(entries) if OmegaConf.is_config(entries) else entries


def _check_data_sets(cfg: DictConfig, *, eval_only: bool) -> None:
    for part in ("test",) if eval_only else ("train", "test"):
        files = OmegaConf.select(cfg, f"dataloader.{part}.dataset.proposal_files")
        check_proposal_files(files or (), f"dataloader.{part}.dataset.proposal_files")
    if comm.get_local_rank() > 0:  # once on each machine, which has files of its own
        return
    numbers = {key: OmegaConf.select(cfg, key) for key in CLASSES}
    key = next((key for key, number in numbers.items() if isinstance(number, int)), CLASSES[0])
    mapper = OmegaConf.select(cfg, "dataloader.train.mapper", default={})
    filter_empty = OmegaConf.select(cfg, "dataloader.train.dataset.filter_empty", default=True)
    check_data_sets(
        () if eval_only else lazy_names(cfg, "train") or (),
        lazy_names(cfg, "test") or (),
        num_classes=numbers[key],
        num_classes_key=key,
        masks=bool(mapper.get("use_instance_mask", False)),
        mask_format=mapper.get("instance_mask_format", "polygon"),
        filter_empty=bool(filter_empty),
    )


def train_or_evaluate(args: argparse.Namespace) -> dict[str, Any] | None:
    """Runs a LazyConfig; gives the metrics of an evaluation on the main process.

    Args:
        args: of detectron2's ``default_argument_parser``; the file defines model, dataloader,
            optimizer, lr_multiplier and train, as detectron2's own do.
    """
    with EarlyLog() as log:
        cfg = configure(args)
        seed = cfg.train.get("seed", -1)
        output = ("train.output_dir", cfg.train.output_dir)
        seed_everything(seed)
        with building("the model", args.config_file):
            model = instantiate(cfg.model).to(cfg.train.device)
            check_levels(cfg, model)
        if "pixel_mean" in cfg.model and relation_blocks(model):
            warn_of_black_padding(cfg.model.pixel_mean)  # which ENL_FPN isn't given here
        if args.eval_only:
            with building("the test's images", args.config_file):
                _check_data_sets(cfg, eval_only=True)
            start(cfg, args, log, output=output, seed=seed)
            return _load_and_evaluate(cfg, args, model)
        steps = _build_steps(cfg, args.config_file, model, seed)
        with building("the learning rate's schedule", args.config_file):
            multiplier = instantiate(cfg.lr_multiplier)
        if args.resume:
            check_resume(cfg, cfg.train.output_dir, model, steps)
        start(cfg, args, log, output=output, seed=seed)
    _train(cfg, args, steps, multiplier)
    return None


def _build_steps(cfg: DictConfig, config_file: str, model: nn.Module, seed: int) -> SimpleTrainer:
    with building("the optimizer", config_file):
        cfg.optimizer.params.model = model
        optimizer = instantiate(cfg.optimizer)
        del cfg.optimizer.params.model  # config.yaml can't hold it
    with building("the training's images", config_file):
        _check_data_sets(cfg, eval_only=False)
        loader: Iterable = instantiate(cfg.dataloader.train)
        on_bad_image = cfg.train.get("on_bad_image", "stop")
        loader = repeatable(loader, seed, on_bad_image, deep_images_of(cfg))
    with building("the training", config_file):
        replicas = replicate(model, cfg.train.device, **cfg.train.ddp)
        kind = AMPTrainer if cfg.train.amp.enabled else SimpleTrainer
        steps = kind(replicas, loader, optimizer)
    warn_if_frozen_though_random("train.init_checkpoint", cfg.train.init_checkpoint, model)
    return steps


def _train(
    cfg: DictConfig, args: argparse.Namespace, trainer: SimpleTrainer, multiplier: Any
) -> None:
    checkpointer = ENLCheckpointer(trainer.model, cfg.train.output_dir, trainer=trainer)
    divergence = StopAtDivergence(checkpointer)
    # In this order: a checkpoint is there if the evaluation fails, and the writers see its metrics.
    run_hooks = [
        *own_hooks(cfg.train.get("seed", -1), divergence, "train.ddp.find_unused_parameters"),
        hooks.IterationTimer(),
        hooks.LRScheduler(scheduler=multiplier),
        hooks.EvalHook(cfg.train.eval_period, lambda: _evaluate(cfg, trainer.model)),
    ]
    if comm.is_main_process():
        run_hooks.insert(-1, hooks.PeriodicCheckpointer(checkpointer, **cfg.train.checkpointer))
        writers = default_writers(cfg.train.output_dir, cfg.train.max_iter)
        run_hooks.append(hooks.PeriodicWriter(writers, period=cfg.train.log_period))
    trainer.register_hooks(run_hooks)

    checkpointer.resume_or_load(cfg.train.init_checkpoint, resume=args.resume)
    resumed = args.resume and checkpointer.has_checkpoint()
    with divergence.explained():
        trainer.train(trainer.iter + 1 if resumed else 0, cfg.train.max_iter)


def _load_and_evaluate(
    cfg: DictConfig, args: argparse.Namespace, model: nn.Module
) -> dict[str, Any] | None:
    model = replicate(model, cfg.train.device)
    checkpointer = ENLCheckpointer(model, cfg.train.output_dir, complete=True)
    checkpointer.resume_or_load(cfg.train.init_checkpoint, resume=args.resume)
    return _evaluate(cfg, model)


def _evaluate(cfg: DictConfig, model: nn.Module) -> dict[str, Any] | None:
    results = inference_on_dataset(
        model, instantiate(cfg.dataloader.test), instantiate(cfg.dataloader.evaluator)
    )
    if comm.is_main_process():
        print_csv_format(results)
    return results
