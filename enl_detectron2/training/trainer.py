"""A run from a YAML configuration: detectron2's ``DefaultTrainer`` with parts of this project."""

import argparse
import logging
import os
import weakref
from collections import OrderedDict
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetMapper, build_detection_test_loader
from detectron2.engine import (
    AMPTrainer,
    DefaultTrainer,
    HookBase,
    SimpleTrainer,
    TrainerBase,
    hooks,
)
from detectron2.evaluation import COCOEvaluator, verify_results
from detectron2.modeling import GeneralizedRCNNWithTTA
from detectron2.solver.build import get_default_optimizer_params, maybe_add_gradient_clipping
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger
from torch import nn

from enl_detectron2.utils.errors import ConfigError

from .building import EarlyLog, building
from .checkpoint import ENLCheckpointer
from .checks import check_keypoints, check_yaml, explain_names, require_coco_type
from .config import load_config
from .data import check_data_sets, register_coco_format
from .data.images import deep_images_of
from .data.loader import CheckedMapper
from .data.proposals import check_proposal_files
from .hooks import StopAtDivergence
from .parts import (
    in_fast_layout,
    own_hooks,
    repeatable,
    replicate,
    seed_everything,
    start,
)
from .resume import check_resume
from .weights import check_weights, warn_if_frozen_though_random

COCO_MAX_DETECTIONS = 100  # an image, in COCO's own metrics


class Parts(NamedTuple):
    """What a training consists of, built before anything is written."""

    cfg: CfgNode
    model: nn.Module
    steps: SimpleTrainer
    scheduler: Any


class Trainer(DefaultTrainer):
    """detectron2's ``DefaultTrainer``, evaluated by its ``COCOEvaluator``; on CPUs, too."""

    def __init__(self, cfg: CfgNode, parts: Parts | None = None):
        """
        Args:
            cfg: with the project's keys.
            parts: of :meth:`build_parts`, which is called if they aren't given.
        """
        # Not DefaultTrainer's own, which builds other parts; the attributes are the same ones.
        TrainerBase.__init__(self)
        if not logging.getLogger("detectron2").isEnabledFor(logging.INFO):
            setup_logger()  # as DefaultTrainer does for who hasn't
        self.cfg, model, self._trainer, self.scheduler = parts or self.build_parts(cfg)
        self.start_iter, self.max_iter = 0, self.cfg.SOLVER.MAX_ITER
        self.checkpointer = ENLCheckpointer(model, self.cfg.OUTPUT_DIR, trainer=weakref.proxy(self))
        self.divergence = StopAtDivergence(self.checkpointer)
        self.register_hooks(self.build_hooks())

    @classmethod
    def from_args(cls, args: argparse.Namespace) -> "Trainer":
        """All of a run but its training, which ``resume_or_load`` and ``train`` are left to do.

        Everything is built before the output folder is made.

        Args:
            args: of detectron2's ``default_argument_parser``.

        Raises:
            ConfigError: (a ValueError) if the configuration can't be right, something can't be
                built, or a data set that is used has errors.
        """
        with EarlyLog() as log:
            cfg = configure(args)
            seed_everything(cfg.SEED)
            parts = cls.build_parts(cfg, args.config_file)
            if args.resume:
                check_resume(cfg, cfg.OUTPUT_DIR, parts.model, parts.steps)
            start(cfg, args, log, output=("OUTPUT_DIR", cfg.OUTPUT_DIR), seed=cfg.SEED)
        return cls(cfg, parts)

    @classmethod
    def build_parts(cls, cfg: CfgNode, config_file: str = "") -> Parts:
        """Model, optimizer, loader and scheduler, in the order of ``DefaultTrainer``.

        Args:
            cfg: with the project's keys; ``Parts.cfg`` is fitted to the number of processes.
            config_file: for messages.

        Raises:
            ConfigError: (a ValueError) if one of them can't be built.
        """
        with building("the batch", config_file):
            cfg = cls.auto_scale_workers(cfg, comm.get_world_size())
        with building("the model", config_file, lambda: explain_names(cfg)):
            model = cls.build_model(cfg)
        with building("the optimizer", config_file):
            optimizer = cls.build_optimizer(cfg, model)
        with building("the learning rate's schedule", config_file):
            scheduler = cls.build_lr_scheduler(cfg, optimizer)
        with building("the test's images", config_file):
            _check_data_sets(cfg)
            DatasetMapper(cfg, is_train=False)
            if cfg.TEST.AUG.ENABLED:
                GeneralizedRCNNWithTTA(cfg, model)
        with building("the training's images", config_file):
            loader = cls.build_train_loader(cfg)
        with building("the training", config_file):
            replicas = replicate(
                model,
                cfg.MODEL.DEVICE,
                broadcast_buffers=False,
                find_unused_parameters=cfg.SOLVER.FIND_UNUSED_PARAMETERS,
            )
            kind = AMPTrainer if cfg.SOLVER.AMP.ENABLED else SimpleTrainer
            steps = kind(replicas, loader, optimizer)
        warn_if_frozen_though_random("MODEL.WEIGHTS", cfg.MODEL.WEIGHTS, model)
        return Parts(cfg, model, steps, scheduler)

    def train(self) -> Any:
        """As of ``DefaultTrainer``.

        Raises:
            NonFinite: (a FloatingPointError) if the training has diverged.
        """
        with self.divergence.explained():
            return super().train()

    def build_hooks(self) -> list[HookBase]:
        """detectron2's, this project's before them, and the augmented test before the writers."""
        own = own_hooks(self.cfg.SEED, self.divergence, "SOLVER.FIND_UNUSED_PARAMETERS")
        theirs = super().build_hooks()
        if self.cfg.TEST.AUG.ENABLED and self.cfg.DATASETS.TEST:
            # At the end alone, as in detectron2's tools/train_net.py.
            test = hooks.EvalHook(0, lambda: self.test_with_augmentation(self.cfg, self.model))
            theirs.insert(len(theirs) - comm.is_main_process(), test)
        return [*own, *theirs]

    @classmethod
    def build_model(cls, cfg: CfgNode) -> nn.Module:
        """detectron2's model; on a CPU in the memory format that suits its convolutions best."""
        model = super().build_model(cfg)
        return in_fast_layout(model) if cfg.MODEL.DEVICE == "cpu" else model

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> Iterable:
        """detectron2's, in an order that can be taken up, see :mod:`.data.loader`."""
        loader = super().build_train_loader(cfg)
        return repeatable(loader, cfg.SEED, cfg.DATALOADER.ON_BAD_IMAGE, deep_images_of(cfg))

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str) -> Iterable:
        """detectron2's, whose errors name the image."""
        mapper = CheckedMapper(DatasetMapper(cfg, is_train=False), deep_images_of(cfg))
        return build_detection_test_loader(cfg, dataset_name, mapper=mapper)

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
        require_coco_type(dataset_name)
        return COCOEvaluator(
            dataset_name,
            output_dir=output_folder or os.path.join(cfg.OUTPUT_DIR, "inference"),
            max_dets_per_image=max(COCO_MAX_DETECTIONS, cfg.TEST.DETECTIONS_PER_IMAGE),
            kpt_oks_sigmas=cfg.TEST.KEYPOINT_OKS_SIGMAS,
        )

    @classmethod
    def test_with_augmentation(cls, cfg: CfgNode, model: nn.Module) -> OrderedDict[str, Any]:
        """The metrics with ``TEST.AUG``, each under its name with ``_TTA``."""
        folder = os.path.join(cfg.OUTPUT_DIR, "inference_TTA")
        evaluators = [cls.build_evaluator(cfg, name, folder) for name in cfg.DATASETS.TEST]
        results = cls.test(cfg, GeneralizedRCNNWithTTA(cfg, model), evaluators)
        return OrderedDict((f"{name}_TTA", value) for name, value in results.items())


def configure(args: argparse.Namespace) -> CfgNode:
    """The configuration of a run, frozen; its data sets registered, nothing built or written.

    Args:
        args: of detectron2's ``default_argument_parser``.

    Raises:
        FileNotFoundError: if a file or folder that it names isn't there.
        ConfigError: (a ValueError) if the configuration can't be right, see :mod:`.checks`.
    """
    cfg = load_config(args.config_file, args.opts)
    register_coco_format(cfg.DATASETS.COCO_FORMAT, keypoints=cfg.MODEL.KEYPOINT_ON)
    cfg.freeze()
    check_yaml(cfg, eval_only=args.eval_only)
    if not (args.resume and ENLCheckpointer(nn.Module(), cfg.OUTPUT_DIR).has_checkpoint()):
        check_weights("MODEL.WEIGHTS", cfg.MODEL.WEIGHTS, required=args.eval_only)
    return cfg


def _check_data_sets(cfg: CfgNode, *, eval_only: bool = False) -> None:
    train = () if eval_only else cfg.DATASETS.TRAIN
    if cfg.MODEL.LOAD_PROPOSALS:  # each process unpickles them by itself
        check_proposal_files(() if eval_only else cfg.DATASETS.PROPOSAL_FILES_TRAIN)
        check_proposal_files(cfg.DATASETS.PROPOSAL_FILES_TEST, "DATASETS.PROPOSAL_FILES_TEST")
    if comm.get_local_rank() > 0:  # once on each machine, which has files of its own
        return
    architecture = cfg.MODEL.META_ARCHITECTURE
    head = {"GeneralizedRCNN": "ROI_HEADS", "RetinaNet": "RETINANET"}.get(architecture)
    check_data_sets(
        train,
        cfg.DATASETS.TEST,
        num_classes=cfg.MODEL[head].NUM_CLASSES if head else None,
        num_classes_key=f"MODEL.{head}.NUM_CLASSES",
        masks=cfg.MODEL.MASK_ON,
        mask_format=cfg.INPUT.MASK_FORMAT,
        filter_empty=cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS,
    )
    if cfg.MODEL.KEYPOINT_ON:
        number = cfg.MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS
        check_keypoints((*train, *cfg.DATASETS.TEST), number)


def train_or_evaluate(args: argparse.Namespace) -> dict[str, Any] | None:
    """Runs a YAML configuration; gives the metrics of an evaluation on the main process.

    Args:
        args: of detectron2's ``default_argument_parser``.
    """
    if args.eval_only:
        return _evaluate(args)
    trainer = Trainer.from_args(args)
    trainer.resume_or_load(resume=args.resume)
    trainer.train()
    return None


def _evaluate(args: argparse.Namespace) -> dict[str, Any]:
    with EarlyLog() as log:
        cfg = configure(args)
        with building("the model", args.config_file, lambda: explain_names(cfg)):
            model = Trainer.build_model(cfg)
            if cfg.TEST.AUG.ENABLED:
                GeneralizedRCNNWithTTA(cfg, model)
        with building("the test's images", args.config_file):
            _check_data_sets(cfg, eval_only=True)
            DatasetMapper(cfg, is_train=False)
        start(cfg, args, log, output=("OUTPUT_DIR", cfg.OUTPUT_DIR), seed=cfg.SEED)
    checkpointer = ENLCheckpointer(model, cfg.OUTPUT_DIR, complete=True)
    checkpointer.resume_or_load(cfg.MODEL.WEIGHTS, resume=args.resume)
    results = Trainer.test(cfg, model)
    if cfg.TEST.AUG.ENABLED:
        results.update(Trainer.test_with_augmentation(cfg, model))
    if comm.is_main_process():
        verify_results(cfg, results)
    return results
