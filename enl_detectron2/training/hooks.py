"""What every training of this project does beside detectron2's own hooks."""

import contextlib
from collections.abc import Iterator

import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.engine import HookBase
from detectron2.utils import comm
from detectron2.utils.env import seed_all_rng
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from enl_detectron2.utils.errors import ConfigError, NonFinite

from .data.loader import TrainLoader, seed_of


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


class StopAtDivergence(HookBase):
    """Stops a training whose loss is not finite, before the model is changed by it.

    With large enough weights a model finds that out by itself, in its forward pass:
    :meth:`explained` then says as much as this hook does.
    """

    def __init__(self, checkpointer: DetectionCheckpointer):
        """
        Args:
            checkpointer: of the run, which knows the last checkpoint.
        """
        self.checkpointer = checkpointer
        self._images = ""

    def before_train(self) -> None:
        # The only place where batch and losses are seen together, in every trainer.
        self._handles = [
            self.trainer.model.register_forward_pre_hook(self._remember),
            self.trainer.model.register_forward_hook(self._check),
        ]

    def after_train(self) -> None:
        for handle in self._handles:
            handle.remove()

    @contextlib.contextmanager
    def explained(self) -> Iterator[None]:
        """
        Raises:
            NonFinite: (a FloatingPointError) with iteration and files, at detectron2's own
                FloatingPointError, as of an RPN whose boxes are not finite.
        """
        try:
            yield
        except NonFinite:
            raise
        except FloatingPointError as error:
            raise self._error(f"the training has diverged ({error})") from error

    def _remember(self, model: nn.Module, inputs: tuple[list[dict]]) -> None:
        if model.training:
            self._images = ", ".join(str(image.get("file_name")) for image in inputs[0])

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
        raise self._error(f"the loss is not finite ({terms})")

    def _error(self, what: str) -> NonFinite:
        last = self.checkpointer.get_checkpoint_file()
        return NonFinite(
            f"{what} at iteration {self.trainer.iter}; images of the batch: {self._images}; "
            + (f"the last checkpoint is {last}" if last else "there is no checkpoint")
            + "; a lower learning rate may help"
        )


class StopAtUnusedParameters(HookBase):
    """With several processes, names the parameters that had no part in a step.

    PyTorch's ``DistributedDataParallel`` would wait for their gradients, and fail in the next step.
    """

    def __init__(self, key: str):
        """
        Args:
            key: of the configuration, that allows it.
        """
        self.key = key

    def after_step(self) -> None:
        model = self.trainer.model
        if not isinstance(model, DistributedDataParallel) or model.find_unused_parameters:
            return
        unused = [
            name
            for name, parameter in model.module.named_parameters()
            if parameter.requires_grad and parameter.grad is None
        ]
        if unused:
            raise ConfigError(
                f"{self.key} must be True: with several processes, each parameter needs a part in "
                f"each step's losses, but {len(unused)} had none, the first of them {unused[0]}"
            )
