"""One run, from a YAML file or a LazyConfig: detectron2's trainers with the COCO evaluator."""

import argparse
import functools
import logging
import os
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from detectron2.config import CfgNode, instantiate
from detectron2.data import DatasetMapper, MetadataCatalog, build_detection_test_loader
from detectron2.engine import (
    AMPTrainer,
    DefaultTrainer,
    SimpleTrainer,
    create_ddp_model,
    default_argument_parser,
    default_setup,
    default_writers,
    defaults,
    hooks,
    launch,
)
from detectron2.evaluation import (
    COCOEvaluator,
    inference_on_dataset,
    print_csv_format,
    verify_results,
)
from detectron2.solver.build import get_default_optimizer_params, maybe_add_gradient_clipping
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger
from omegaconf import DictConfig
from torch import nn
from torch.multiprocessing import ProcessExitedException

from .checkpoint import ENLCheckpointer
from .checks import check_lazy, check_lazy_overrides, check_yaml, check_yaml_model
from .config import load_config
from .data import check_data_sets, register_coco_format
from .data.loader import CheckedMapper, TrainLoader
from .errors import ConfigError, UserError
from .hooks import RepeatableSteps, StopAtNonFiniteLoss
from .provenance import write_environment

COCO_MAX_DETECTIONS = 100  # an image, in COCO's own metrics

logger = logging.getLogger(__name__)


def main() -> None:
    """The command line of train_net.py, which is detectron2's."""
    args = default_argument_parser().parse_args()
    try:
        launch(
            _run_or_explain,
            args.num_gpus,
            num_machines=args.num_machines,
            machine_rank=args.machine_rank,
            dist_url=args.dist_url,
            args=(args,),
        )
    except ProcessExitedException as error:  # that process has said why
        sys.exit(error.exit_code)


def _run_or_explain(args: argparse.Namespace) -> None:
    """One process of a run; what the user can put right ends it with a line and status 1."""
    try:
        run(args)
    except UserError as error:
        sys.exit(f"{Path(sys.argv[0]).name}: error: {error}")


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
    def build_train_loader(cls, cfg: CfgNode) -> Any:
        """detectron2's, in an order that can be taken up, see :mod:`.data.loader`."""
        loader = super().build_train_loader(cfg)
        return _repeatable(loader, cfg.SEED, cfg.DATALOADER.ON_BAD_IMAGE)

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str) -> Any:
        """detectron2's, whose errors name the image."""
        mapper = CheckedMapper(DatasetMapper(cfg, is_train=False))
        return build_detection_test_loader(cfg, dataset_name, mapper=mapper)

    def build_hooks(self) -> list[hooks.HookBase]:
        """detectron2's, and this project's before them."""
        return [*_own_hooks(self.cfg.SEED, self.checkpointer), *super().build_hooks()]

    @classmethod
    def build_optimizer(cls, cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
        """detectron2's SGD, or AdamW with the same treatment of parameters, as the config says.

        Raises:
            ValueError: if ``SOLVER.OPTIMIZER`` is neither.
        """
        if cfg.SOLVER.OPTIMIZER == "SGD":
            return super().build_optimizer(cfg, model)
        if cfg.SOLVER.OPTIMIZER != "AdamW":
            raise ConfigError(
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
        _require_coco_type(dataset_name)
        return COCOEvaluator(
            dataset_name,
            output_dir=output_folder or os.path.join(cfg.OUTPUT_DIR, "inference"),
            max_dets_per_image=max(COCO_MAX_DETECTIONS, cfg.TEST.DETECTIONS_PER_IMAGE),
        )


def _require_coco_type(dataset_name: str) -> None:
    kind = MetadataCatalog.get(dataset_name).get("evaluator_type")
    if kind != "coco":
        raise ConfigError(
            f"DATASETS.TEST: {dataset_name!r} has the evaluator type {kind!r}; "
            "this trainer evaluates sets of type 'coco'"
        )


def setup(args: argparse.Namespace) -> CfgNode:
    """The configuration of a run from YAML, frozen; its data sets registered, its logger started.

    Args:
        args: of detectron2's ``default_argument_parser``.

    Raises:
        FileNotFoundError: if a file or folder of ``DATASETS.COCO_FORMAT`` isn't there.
        ConfigError: (a ValueError) if the configuration can't be right, see :mod:`.config_check`,
            or one of its sets that are used has errors, see :mod:`.data.check`.
    """
    cfg = load_config(args.config_file, args.opts)
    register_coco_format(cfg.DATASETS.COCO_FORMAT)
    cfg.freeze()
    check_yaml(cfg, eval_only=args.eval_only)
    if comm.get_local_rank() == 0:  # once on each machine, which has files of its own
        check_yaml_model(cfg, Trainer.build_optimizer)
        _check_data_sets(cfg, args.eval_only)
    _start(cfg, args, cfg.OUTPUT_DIR, cfg.SEED)
    return cfg


def _check_data_sets(cfg: CfgNode, eval_only: bool) -> None:
    classes_of = {"GeneralizedRCNN": "ROI_HEADS", "RetinaNet": "RETINANET"}
    head = classes_of.get(cfg.MODEL.META_ARCHITECTURE)
    check_data_sets(
        () if eval_only else cfg.DATASETS.TRAIN,
        cfg.DATASETS.TEST,
        num_classes=cfg.MODEL[head].NUM_CLASSES if head else None,
        num_classes_key=f"MODEL.{head}.NUM_CLASSES",
        masks=cfg.MODEL.MASK_ON,
        mask_format=cfg.INPUT.MASK_FORMAT,
        filter_empty=cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS,
    )


def _start(cfg: CfgNode | DictConfig, args: argparse.Namespace, output: str, seed: int) -> None:
    default_setup(cfg, args)
    # What this package says goes where detectron2's own words go, and on to whoever else listens.
    setup_logger(output, comm.get_rank(), name="enl_detectron2", abbrev_name="enl").propagate = True
    if comm.is_main_process() and not args.eval_only:
        write_environment(output, seed, resumed=args.resume)


def _repeatable(loader: Any, seed: int, on_bad_image: str) -> Any:
    """The loader as a TrainLoader, if it is one of map-style data."""
    if seed < 0:
        seed = comm.shared_random_seed()
    try:
        return TrainLoader(loader, seed, on_bad_image)
    except TypeError as error:
        logger.warning(
            "When it is resumed, this training sees its data in another order: %s", error
        )
        return loader


def _own_hooks(seed: int, checkpointer: ENLCheckpointer) -> list[hooks.HookBase]:
    repeatable = [RepeatableSteps(seed)] if seed >= 0 else []
    return [*repeatable, StopAtNonFiniteLoss(checkpointer)]


def _run_yaml(args: argparse.Namespace) -> dict[str, Any] | None:
    cfg = setup(args)
    for name in cfg.DATASETS.TEST:
        _require_coco_type(name)  # now, not when the training is over
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
    check_lazy_overrides(load_config(args.config_file, []), args.opts)
    cfg = load_config(args.config_file, args.opts)
    if comm.get_local_rank() == 0:
        check_lazy(cfg)
    seed = cfg.train.get("seed", -1)
    _start(cfg, args, cfg.train.output_dir, seed)
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
    on_bad_image = cfg.train.get("on_bad_image", "stop")
    loader = _repeatable(instantiate(cfg.dataloader.train), seed, on_bad_image)
    trainer = trainer_class(model, loader, optimizer)
    checkpointer = ENLCheckpointer(model, cfg.train.output_dir, trainer=trainer)
    # In this order: a checkpoint is there if the evaluation fails, and the writers see its metrics.
    run_hooks = [
        *_own_hooks(seed, checkpointer),
        hooks.IterationTimer(),
        hooks.LRScheduler(scheduler=instantiate(cfg.lr_multiplier)),
        hooks.EvalHook(cfg.train.eval_period, lambda: _evaluate_lazy(cfg, model)),
    ]
    if comm.is_main_process():
        run_hooks.insert(-1, hooks.PeriodicCheckpointer(checkpointer, **cfg.train.checkpointer))
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
