"""One seed, one run: whatever interrupts it, and however many workers read its images."""

import itertools
import logging

import pytest
import torch
from detectron2.data.build import build_batch_data_loader
from detectron2.data.common import DatasetFromList, MapDataset
from detectron2.data.samplers import TrainingSampler
from detectron2.engine import HookBase
from tiny_training import WriteLosses, arguments, read_losses, train

from enl_detectron2.training.data.loader import TrainLoader
from enl_detectron2.training.trainer import Trainer, setup
from enl_detectron2.utils.errors import ConfigError, UserError


@pytest.fixture(scope="module")
def uninterrupted(config, tmp_path_factory):
    """The losses of the run, and its folder."""
    output = tmp_path_factory.mktemp("uninterrupted")
    train(config, output / "losses", "OUTPUT_DIR", output)
    losses = read_losses(output / "losses")
    assert [iteration for iteration, _ in losses] == list(range(6))
    return losses, output


def test_two_runs_are_one_with_any_number_of_workers(config, uninterrupted, tmp_path):
    words = ("OUTPUT_DIR", tmp_path, "DATALOADER.NUM_WORKERS", 2)
    train(config, tmp_path / "losses", *words)
    assert read_losses(tmp_path / "losses") == uninterrupted[0]


def test_another_seed_is_another_run(config, uninterrupted, tmp_path):
    words = ("OUTPUT_DIR", tmp_path, "SEED", 8, "SOLVER.MAX_ITER", 2)
    train(config, tmp_path / "losses", *words)
    both = zip(read_losses(tmp_path / "losses"), uninterrupted[0])
    assert all(loss != other for loss, other in both)


class Interrupt(WriteLosses):
    """Stops at an iteration."""

    def before_step(self):
        if self.trainer.iter == 3:
            raise KeyboardInterrupt


def test_a_resumed_run_goes_on_as_if_nothing_had_been(config, uninterrupted, tmp_path):
    words = ("OUTPUT_DIR", tmp_path, "DATALOADER.NUM_WORKERS", 0)
    trainer = Trainer(setup(arguments(config, *words)))
    trainer.register_hooks([Interrupt(tmp_path / "losses")])
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    train(config, tmp_path / "losses", "--resume", *words)
    losses = read_losses(tmp_path / "losses")
    # The third step, after the last checkpoint, is done again.
    assert [iteration for iteration, _ in losses] == [0, 1, 2, 2, 3, 4, 5]
    assert set(losses) == set(uninterrupted[0])


RECORDS = [
    {"index": index, "width": 64 if index % 3 else 32, "height": 48, "file_name": f"{index}.png"}
    for index in range(7)
]


def loader(batch_size=2, grouped=True, mapper=dict, **options):
    data = MapDataset(DatasetFromList(RECORDS), mapper)
    sampler = TrainingSampler(len(RECORDS), seed=3)
    built = build_batch_data_loader(
        data, sampler, batch_size, aspect_ratio_grouping=grouped, num_workers=0
    )
    return built, TrainLoader(built, 5, **options)


def indices(batches, count=20):
    return [[image["index"] for image in batch] for batch in itertools.islice(batches, count)]


@pytest.mark.parametrize("grouped", [True, False])
def test_the_order_is_detectron2s_own(grouped):
    theirs, ours = loader(grouped=grouped)
    expected = indices(theirs)
    assert indices(ours) == expected
    for start in (1, 9):
        ours.start = start
        assert indices(ours, 5) == expected[start : start + 5]


def fails_at(*bad):
    def mapper(record):
        if record["index"] in bad:
            raise OSError("image file is truncated")
        return record

    return mapper


def test_a_bad_image_stops_or_is_replaced(caplog):
    _, ours = loader(mapper=fails_at(2, 3))
    with pytest.raises(ValueError, match=r"^3.png \(image None\) can't be used: OSError: image f"):
        indices(ours)
    _, ours = loader(mapper=fails_at(2, 3), on_bad_image="replace", grouped=False)
    with caplog.at_level(logging.WARNING):
        seen = list(itertools.chain(*indices(ours)))
    whole = list(itertools.chain(*indices(loader(grouped=False)[1])))
    assert seen == [4 if index in (2, 3) else index for index in whole]
    messages = [record.getMessage() for record in caplog.records]
    assert sum(text.startswith("2.png") for text in messages) == whole.count(2)
    _, ours = loader(mapper=fails_at(*range(7)), on_bad_image="replace")
    with pytest.raises(ValueError, match="7 images in a row can't be used"):
        indices(ours)
    with pytest.raises(ConfigError, match="must be 'stop' or 'replace', got 'skip'"):
        loader(on_bad_image="skip")


def test_a_loss_that_is_not_finite_is_neither_trained_on_nor_saved(config, tmp_path):
    trainer = Trainer(setup(arguments(config, "OUTPUT_DIR", tmp_path)))
    losses = trainer.model.roi_heads.box_predictor.losses

    def broken(*args):
        terms = losses(*args)
        return terms | ({"loss_cls": terms["loss_cls"] * torch.nan} if trainer.iter >= 4 else {})

    trainer.model.roi_heads.box_predictor.losses = broken
    with pytest.raises(FloatingPointError, match="iteration=4"):
        trainer.train()
    before = torch.load(tmp_path / "model_0000003.pth", weights_only=False)["model"]
    assert all(torch.equal(before[name], p) for name, p in trainer.model.named_parameters())
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000003.pth"
    assert not (tmp_path / "model_final.pth").exists()


def test_parameters_that_are_not_finite_are_not_saved(config, tmp_path):
    """A step from finite losses can still make them so."""
    trainer = Trainer(setup(arguments(config, "OUTPUT_DIR", tmp_path)))

    class Spoil(HookBase):
        def before_step(self):
            if self.trainer.iter == 5:  # the last one
                parameter = next(self.trainer.model.roi_heads.parameters())
                parameter.register_hook(lambda gradient: gradient * torch.inf)

    trainer.register_hooks([Spoil()])
    with pytest.raises(UserError, match="model_0000005.pth is not saved"):
        trainer.train()
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000003.pth"
