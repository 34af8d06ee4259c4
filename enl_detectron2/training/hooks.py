"""What every training of this project does beside detectron2's own hooks."""

import datetime
import logging
import time

from detectron2.engine import HookBase
from detectron2.utils import comm
from detectron2.utils.env import seed_all_rng

from .data.loader import TrainLoader, seed_of

logger = logging.getLogger(__name__)


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


class FirstSteps(HookBase):
    """Logs loss and time left at the first steps; detectron2's writers begin at the twentieth."""

    STEPS = (1, 2, 5, 10)

    def before_train(self) -> None:
        self._begin = time.perf_counter()

    def after_step(self) -> None:
        trainer = self.trainer
        done = trainer.iter + 1 - trainer.start_iter
        if done in self.STEPS:
            a_step = (time.perf_counter() - self._begin) / done
            logger.info(
                "step %d of %d: loss %.4g, about %s left",
                trainer.iter + 1,
                trainer.max_iter,
                trainer.storage.history("total_loss").latest(),
                datetime.timedelta(seconds=round(a_step * (trainer.max_iter - trainer.iter - 1))),
            )
