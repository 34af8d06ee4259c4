"""A run from YAML, put together as in detectron2's ``tools/train_net.py``."""

import argparse
import logging
import os
import weakref
from collections import OrderedDict
from collections.abc import Iterable
from typing import Any
from urllib.parse import quote

import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetMapper, MetadataCatalog, build_detection_test_loader
from detectron2.engine import (
    AMPTrainer,
    DefaultTrainer,
    HookBase,
    SimpleTrainer,
    TrainerBase,
    hooks,
)
from detectron2.evaluation import (
    CityscapesInstanceEvaluator,
    CityscapesSemSegEvaluator,
    COCOEvaluator,
    COCOPanopticEvaluator,
    DatasetEvaluator,
    DatasetEvaluators,
    LVISEvaluator,
    PascalVOCDetectionEvaluator,
    SemSegEvaluator,
    verify_results,
)
from detectron2.modeling import GeneralizedRCNNWithTTA
from detectron2.solver.build import get_default_optimizer_params, maybe_add_gradient_clipping
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger
from torch import nn

from enl_detectron2.utils.errors import ConfigError

from .checkpoint import ENLCheckpointer
from .common import (
    COCO_MAX_DETECTIONS,
    in_fast_layout,
    own_hooks,
    prepare_run,
    quiet_terminal,
    repeatable,
    replicate,
)
from .config import drop_other_options, load_config
from .data import class_names, prepare_sets
from .data.images import deep_images_of
from .data.loader import CheckedMapper
from .evaluation import MOST_IN_TILES, evaluated, tile_of


class Trainer(DefaultTrainer):
    """detectron2's ``DefaultTrainer`` with its evaluators; also on CPUs."""

    def __init__(self, cfg: CfgNode):
        """
        Args:
            cfg: of :func:`setup`, which registers its sets and takes the CPU where no GPU is.
        """
        # DefaultTrainer's own, line by line, but for the replicas, which it can't make of a model
        # on the CPU and has no option for, and the checkpointer.
        TrainerBase.__init__(self)
        if not logging.getLogger("detectron2").isEnabledFor(logging.INFO):
            setup_logger()
        cfg = self.auto_scale_workers(cfg, comm.get_world_size())
        model = self.build_model(cfg)
        optimizer = self.build_optimizer(cfg, model)
        data_loader = self.build_train_loader(cfg)
        model = replicate(
            model,
            cfg.MODEL.DEVICE,
            broadcast_buffers=False,
            find_unused_parameters=cfg.SOLVER.FIND_UNUSED_PARAMETERS,
        )
        self._trainer = (AMPTrainer if cfg.SOLVER.AMP.ENABLED else SimpleTrainer)(
            model, data_loader, optimizer
        )
        self.scheduler = self.build_lr_scheduler(cfg, optimizer)
        self.checkpointer = ENLCheckpointer(
            model,
            cfg.OUTPUT_DIR,
            class_names=class_names(cfg.DATASETS.TRAIN),
            trainer=weakref.proxy(self),
        )
        self.start_iter, self.max_iter, self.cfg = 0, cfg.SOLVER.MAX_ITER, cfg
        self.register_hooks(self.build_hooks())

    def build_hooks(self) -> list[HookBase | None]:
        """detectron2's, this project's before them, and the augmented test before the writers."""
        theirs = super().build_hooks()
        if self.cfg.TEST.AUG.ENABLED and self.cfg.DATASETS.TEST:
            # At the end alone, as in detectron2's tools/train_net.py.
            test = hooks.EvalHook(0, lambda: self.test_with_augmentation(self.cfg, self.model))
            theirs.insert(len(theirs) - comm.is_main_process(), test)
        return [*own_hooks(self.cfg.SEED), *theirs]

    @classmethod
    def build_model(cls, cfg: CfgNode) -> nn.Module:
        """detectron2's model; on a CPU in the memory format that suits its convolutions best."""
        with quiet_terminal():
            model = super().build_model(cfg)
        return in_fast_layout(model, cfg.MODEL.DEVICE)

    @classmethod
    def build_optimizer(cls, cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
        """detectron2's SGD, or AdamW with the same treatment of parameters.

        Raises:
            ConfigError: (a ValueError) if ``SOLVER.OPTIMIZER`` is neither.
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
    def build_train_loader(cls, cfg: CfgNode) -> Iterable:
        """detectron2's, in an order that can be resumed, see :mod:`.data.loader`."""
        loader = super().build_train_loader(cfg)
        return repeatable(loader, cfg.SEED, cfg.DATALOADER.ON_BAD_IMAGE, deep_images_of(cfg))

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str) -> Iterable:
        """detectron2's, whose errors name the image."""
        mapper = CheckedMapper(DatasetMapper(cfg, is_train=False), deep_images_of(cfg))
        return build_detection_test_loader(cfg, dataset_name, mapper=mapper)

    @classmethod
    def build_evaluator(
        cls, cfg: CfgNode, dataset_name: str, output_folder: str | None = None
    ) -> DatasetEvaluator:
        """detectron2's evaluator for the set's ``evaluator_type``.

        COCO's 100 detections an image would cut the recall on images with more objects, so
        ``TEST.DETECTIONS_PER_IMAGE`` raises the limit of its evaluator; below 100 it stays COCO's.
        In tiles all detections count.
        With several sets to test on, each has a folder of its own within ``inference``.

        Raises:
            NotImplementedError: if there is none; ``DefaultTrainer.test`` then leaves the set out
                with a warning.
        """
        folder = output_folder or os.path.join(cfg.OUTPUT_DIR, "inference")
        if len(cfg.DATASETS.TEST) > 1:  # a file of results each
            folder = os.path.join(folder, quote(dataset_name, safe=" "))
        kind = MetadataCatalog.get(dataset_name).get("evaluator_type")
        evaluators: list[DatasetEvaluator] = []
        most = MOST_IN_TILES if tile_of(cfg) > 0 else cfg.TEST.DETECTIONS_PER_IMAGE
        if kind in ("coco", "coco_panoptic_seg"):
            evaluators.append(
                COCOEvaluator(
                    dataset_name,
                    output_dir=folder,
                    max_dets_per_image=max(COCO_MAX_DETECTIONS, most),
                    kpt_oks_sigmas=cfg.TEST.KEYPOINT_OKS_SIGMAS,
                )
            )
        if kind in ("sem_seg", "coco_panoptic_seg"):
            evaluators.append(SemSegEvaluator(dataset_name, output_dir=folder))
        if kind == "coco_panoptic_seg":
            evaluators.append(COCOPanopticEvaluator(dataset_name, folder))
        if kind == "lvis":
            evaluators.append(LVISEvaluator(dataset_name, output_dir=folder))
        if kind == "pascal_voc":
            evaluators.append(PascalVOCDetectionEvaluator(dataset_name))
        if kind == "cityscapes_instance":
            evaluators.append(CityscapesInstanceEvaluator(dataset_name))
        if kind == "cityscapes_sem_seg":
            evaluators.append(CityscapesSemSegEvaluator(dataset_name))
        if not evaluators:
            raise NotImplementedError(
                f"there is no evaluator for {dataset_name!r}, whose evaluator_type is {kind!r}"
            )
        return evaluators[0] if len(evaluators) == 1 else DatasetEvaluators(evaluators)

    @classmethod
    def test(
        cls, cfg: CfgNode, model: nn.Module, evaluators: list[DatasetEvaluator] | None = None
    ) -> OrderedDict[str, Any]:
        """As of ``DefaultTrainer``; on tiles where ``TEST.TILE`` is above 0."""
        mapper = DatasetMapper(cfg, is_train=False)
        with evaluated(model, tile_of(cfg), mapper, deep_images_of(cfg)) as seen:
            return super().test(cfg, seen, evaluators)

    @classmethod
    def test_with_augmentation(cls, cfg: CfgNode, model: nn.Module) -> OrderedDict[str, Any]:
        """The metrics with ``TEST.AUG``, each under its name with ``_TTA``."""
        folder = os.path.join(cfg.OUTPUT_DIR, "inference_TTA")
        evaluators = [cls.build_evaluator(cfg, name, folder) for name in cfg.DATASETS.TEST]
        results = cls.test(cfg, GeneralizedRCNNWithTTA(cfg, model), evaluators)
        return OrderedDict((f"{name}_TTA", value) for name, value in results.items())


def setup(args: argparse.Namespace) -> CfgNode:
    """The configuration of a run, frozen; its folder and log are there, its sets registered.

    Args:
        args: of detectron2's ``default_argument_parser``.

    Raises:
        UserError: if a file isn't there, a data set has errors or doesn't fit the model, or another
            process trains in the folder.
    """
    cfg = load_config(args.config_file, args.opts)
    drop_other_options(cfg)
    prepare_run(cfg, args)
    cfg.freeze()
    architecture = cfg.MODEL.META_ARCHITECTURE
    head = {"GeneralizedRCNN": "ROI_HEADS", "RetinaNet": "RETINANET"}.get(architecture)
    prepare_sets(
        () if args.eval_only else cfg.DATASETS.TRAIN,
        cfg.DATASETS.TEST,
        coco_format=cfg.DATASETS.COCO_FORMAT,
        keypoints=cfg.MODEL.KEYPOINT_ON,
        output_dir=cfg.OUTPUT_DIR,
        num_classes=cfg.MODEL[head].NUM_CLASSES if head else None,
        num_classes_key=f"MODEL.{head}.NUM_CLASSES",
        masks=cfg.MODEL.MASK_ON,
        mask_format=cfg.INPUT.MASK_FORMAT,
        filter_empty=cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS,
    )
    return cfg


def main(args: argparse.Namespace, trainer_class: type[Trainer] = Trainer) -> dict[str, Any] | None:
    """Trains, or with ``--eval-only`` evaluates and gives the metrics on the main process.

    Args:
        args: of detectron2's ``default_argument_parser``.
        trainer_class: yours, perhaps with another ``build_evaluator``.
    """
    cfg = setup(args)
    if not args.eval_only:
        trainer = trainer_class(cfg)
        trainer.resume_or_load(resume=args.resume)
        return trainer.train()
    model = trainer_class.build_model(cfg)
    names = class_names(cfg.DATASETS.TEST)
    checkpointer = ENLCheckpointer(model, cfg.OUTPUT_DIR, complete=True, class_names=names)
    checkpointer.resume_or_load(cfg.MODEL.WEIGHTS, resume=args.resume)
    results = trainer_class.test(cfg, model)
    if cfg.TEST.AUG.ENABLED:
        results.update(trainer_class.test_with_augmentation(cfg, model))
    if comm.is_main_process():
        verify_results(cfg, results)
    return results
