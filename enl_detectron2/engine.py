"""One run, from a YAML file or a LazyConfig: detectron2's trainers with the COCO evaluator."""

import argparse
import functools
import os
from typing import Any
from unittest import mock

import torch
from detectron2.config import CfgNode, instantiate
from detectron2.data import MetadataCatalog
from detectron2.engine import (
    AMPTrainer,
    DefaultTrainer,
    SimpleTrainer,
    create_ddp_model,
    default_setup,
    default_writers,
    defaults,
    hooks,
)
from detectron2.evaluation import (
    COCOEvaluator,
    inference_on_dataset,
    print_csv_format,
    verify_results,
)
from detectron2.solver.build import get_default_optimizer_params, maybe_add_gradient_clipping
from detectron2.utils import comm
from omegaconf import DictConfig
from torch import nn

from .checkpoint import ENLCheckpointer
from .config import load_config
from .data import register_coco_format
from .data.check import require_sound

COCO_MAX_DETECTIONS = 100  # an image, in COCO's own metrics


def run(args: argparse.Namespace) -> dict[str, Any] | None:
    """Trains, or with ``--eval-only`` evaluates, the model of ``args.config_file``.

    Args:
        args: of detectron2's ``default_argument_parser``; the file is a ``.yaml`` or a LazyConfig
            ``.py`` with model, dataloader, optimizer, lr_multiplier and train, as in detectron2.

    Returns:
        With ``--eval-only`` the metrics, on the main process.
    """
    if args.config_file.endswith(".py"):
        return _run_lazy(args)
    return _run_yaml(args)


class Trainer(DefaultTrainer):
    """detectron2's ``DefaultTrainer``, evaluated by its ``COCOEvaluator``; on CPUs, too."""

    def __init__(self, cfg: CfgNode):
        # DefaultTrainer takes no arguments for these steps of its own.
        steps = {
            "create_ddp_model": functools.partial(_replicate, cfg.MODEL.DEVICE),
            "AMPTrainer": _amp_trainer(cfg.MODEL.DEVICE),
            "DetectionCheckpointer": ENLCheckpointer,
        }
        with mock.patch.multiple(defaults, **steps):
            super().__init__(cfg)

    @classmethod
    def build_model(cls, cfg: CfgNode) -> nn.Module:
        """detectron2's model; on a CPU in the memory format that suits its convolutions best."""
        model = super().build_model(cfg)
        if cfg.MODEL.DEVICE == "cpu":
            model = model.to(memory_format=torch.channels_last)
        return model

    @classmethod
    def build_optimizer(cls, cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
        """detectron2's SGD, or AdamW with the same treatment of parameters, as the config says.

        Raises:
            ValueError: if ``SOLVER.OPTIMIZER`` is neither.
        """
        if cfg.SOLVER.OPTIMIZER == "SGD":
            return super().build_optimizer(cfg, model)
        if cfg.SOLVER.OPTIMIZER != "AdamW":
            raise ValueError(
                f"SOLVER.OPTIMIZER must be 'SGD' or 'AdamW', got {cfg.SOLVER.OPTIMIZER!r}"
            )
        parameters = get_default_optimizer_params(
            model,
            base_lr=cfg.SOLVER.BASE_LR,
            weight_decay_norm=cfg.SOLVER.WEIGHT_DECAY_NORM,
            bias_lr_factor=cfg.SOLVER.BIAS_LR_FACTOR,
            weight_decay_bias=cfg.SOLVER.WEIGHT_DECAY_BIAS,
        )
        return maybe_add_gradient_clipping(cfg, torch.optim.AdamW)(
            parameters, lr=cfg.SOLVER.BASE_LR, weight_decay=cfg.SOLVER.WEIGHT_DECAY
        )

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
    """The configuration of a run from YAML, frozen; its data sets registered, its logger started.

    Args:
        args: of detectron2's ``default_argument_parser``.

    Raises:
        FileNotFoundError: if a file or folder of ``DATASETS.COCO_FORMAT`` isn't there.
        ValueError: if one of its sets that are used has errors, see :mod:`.data.check`.
    """
    cfg = load_config(args.config_file, args.opts)
    register_coco_format(cfg.DATASETS.COCO_FORMAT)
    cfg.freeze()
    if comm.get_local_rank() == 0:  # once on each machine, which has files of its own
        _check_data_sets(cfg)
    default_setup(cfg, args)
    return cfg


def _check_data_sets(cfg: CfgNode) -> None:
    used = {*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST}
    for name in sorted(used.intersection(name for name, _, _ in cfg.DATASETS.COCO_FORMAT)):
        metadata = MetadataCatalog.get(name)
        require_sound(name, metadata.json_file, metadata.image_root)


def _run_yaml(args: argparse.Namespace) -> dict[str, Any] | None:
    cfg = setup(args)
    if args.eval_only:
        model = Trainer.build_model(cfg)
        checkpointer = ENLCheckpointer(model, cfg.OUTPUT_DIR, complete=True)
        checkpointer.resume_or_load(cfg.MODEL.WEIGHTS, resume=args.resume)
        results = Trainer.test(cfg, model)
        if comm.is_main_process():
            verify_results(cfg, results)
        return results
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=args.resume)
    trainer.train()
    return None


def _replicate(device: str, model: nn.Module, **options) -> nn.Module:
    """detectron2's ``create_ddp_model`` for a model on ``device``.

    detectron2 tells PyTorch which GPU the process has, which a model on the CPU refuses.
    """
    if device == "cpu":
        options["device_ids"] = None
    return create_ddp_model(model, **options)


class BFloat16Trainer(SimpleTrainer):
    """What detectron2's ``AMPTrainer`` is on a GPU, for a model on the CPU, in bfloat16.

    Parameters and their updates stay in float32, and so do the operations that PyTorch's autocast
    doesn't list. bfloat16 has float32's range, so that no gradient needs to be scaled.
    """

    def run_step(self):
        # Of all that a step does, the forward pass alone.
        forward = torch.autocast("cpu", dtype=torch.bfloat16)(self.model.forward)
        with mock.patch.object(self.model, "forward", forward):
            super().run_step()


def _amp_trainer(device: str) -> type[SimpleTrainer]:
    return BFloat16Trainer if device == "cpu" else AMPTrainer


def _run_lazy(args: argparse.Namespace) -> dict[str, Any] | None:
    cfg = load_config(args.config_file, args.opts)
    default_setup(cfg, args)
    model = instantiate(cfg.model).to(cfg.train.device)
    if args.eval_only:
        model = _replicate(cfg.train.device, model)
        checkpointer = ENLCheckpointer(model, cfg.train.output_dir, complete=True)
        checkpointer.resume_or_load(cfg.train.init_checkpoint, resume=args.resume)
        return _evaluate_lazy(cfg, model)

    cfg.optimizer.params.model = model
    optimizer = instantiate(cfg.optimizer)
    model = _replicate(cfg.train.device, model, **cfg.train.ddp)
    trainer_class = _amp_trainer(cfg.train.device) if cfg.train.amp.enabled else SimpleTrainer
    trainer = trainer_class(model, instantiate(cfg.dataloader.train), optimizer)
    checkpointer = ENLCheckpointer(model, cfg.train.output_dir, trainer=trainer)
    # In this order: a checkpoint is there if the evaluation fails, and the writers see its metrics.
    run_hooks = [
        hooks.IterationTimer(),
        hooks.LRScheduler(scheduler=instantiate(cfg.lr_multiplier)),
        hooks.EvalHook(cfg.train.eval_period, lambda: _evaluate_lazy(cfg, model)),
    ]
    if comm.is_main_process():
        run_hooks.insert(2, hooks.PeriodicCheckpointer(checkpointer, **cfg.train.checkpointer))
        writers = default_writers(cfg.train.output_dir, cfg.train.max_iter)
        run_hooks.append(hooks.PeriodicWriter(writers, period=cfg.train.log_period))
    trainer.register_hooks(run_hooks)

    checkpointer.resume_or_load(cfg.train.init_checkpoint, resume=args.resume)
    resumed = args.resume and checkpointer.has_checkpoint()
    trainer.train(trainer.iter + 1 if resumed else 0, cfg.train.max_iter)
    return None


def _evaluate_lazy(cfg: DictConfig, model: nn.Module) -> dict[str, Any] | None:
    results = inference_on_dataset(
        model, instantiate(cfg.dataloader.test), instantiate(cfg.dataloader.evaluator)
    )
    if comm.is_main_process():
        print_csv_format(results)
    return results
