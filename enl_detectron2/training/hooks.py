"""What every training of this project does beside detectron2's own hooks."""

import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.engine import HookBase
from detectron2.utils import comm
from detectron2.utils.env import seed_all_rng
from torch import Tensor, nn

from .data.loader import TrainLoader, seed_of
from .errors import NonFinite


class RepeatableSteps(HookBase):
    """Lets a step depend on the seed and its own number alone, so that a run can be taken up.

    The loader goes on where the run was left, and what the model draws, such as the proposals that
    are trained on, is drawn from generators that are seeded anew at each step.
    """

    def __init__(self, seed: int):
        """
        Args:
            seed: at least 0.
        """
        self.seed = seed

    def before_train(self) -> None:
        if isinstance(self.trainer.data_loader, TrainLoader):
            self.trainer.data_loader.start = self.trainer.start_iter

    def before_step(self) -> None:
        seed_all_rng(seed_of(self.seed, comm.get_rank(), self.trainer.iter))


class StopAtNonFiniteLoss(HookBase):
    """Stops a training whose loss is not finite, before the model is changed by it."""

    def __init__(self, checkpointer: DetectionCheckpointer):
        """
        Args:
            checkpointer: of the run, which knows the last checkpoint.
        """
        self.checkpointer = checkpointer

    def before_train(self) -> None:
        # The only place where batch and losses are seen together, in every trainer.
        self._handle = self.trainer.model.register_forward_hook(self._check)

    def after_train(self) -> None:
        self._handle.remove()

    def _check(
        self, model: nn.Module, inputs: tuple[list[dict]], losses: Tensor | dict[str, Tensor]
    ) -> None:
        if not model.training:
            return
        if isinstance(losses, Tensor):
            losses = {"total_loss": losses}
        if torch.isfinite(sum(loss.detach().float() for loss in losses.values())).all():
            return
        terms = ", ".join(f"{name}={loss.item():.4g}" for name, loss in losses.items())
        images = ", ".join(str(image.get("file_name")) for image in inputs[0])
        last = self.checkpointer.get_checkpoint_file()
        raise NonFinite(
            f"the loss is not finite at iteration {self.trainer.iter}: {terms}; images of the "
            f"batch: {images}; " + (f"the last checkpoint is {last}" if last else "no checkpoint")
        )
