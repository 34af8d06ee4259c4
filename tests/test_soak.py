"""Thousands of steps and inferences at changing image sizes: memory stays flat, caches bounded."""

import os
import random
from pathlib import Path

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage

ROUNDS = 2000
MARGIN = 12 * 2**20  # bytes; one tensor of 8 KiB kept in each round would be 16 MB more


def resident_bytes():
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def random_record(draw):
    height, width = draw.randint(33, 128), draw.randint(33, 128)
    instances = Instances((height, width))
    instances.gt_boxes = Boxes(torch.tensor([[2.0, 3.0, 30.0, 28.0]]))
    instances.gt_classes = torch.tensor([0])
    image = torch.randint(0, 256, (3, height, width), dtype=torch.uint8)
    return {"image": image, "instances": instances}


@pytest.fixture
def detector(slim_cfg):
    slim_cfg.MODEL.ENL_FPN.BOTTOM_UP = "build_non_local_resnet_backbone"
    slim_cfg.MODEL.RESNETS.DEPTH = 50
    slim_cfg.MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE = 16
    slim_cfg.MODEL.RPN.POST_NMS_TOPK_TRAIN = slim_cfg.MODEL.RPN.POST_NMS_TOPK_TEST = 30
    slim_cfg.MODEL.ROI_BOX_HEAD.FC_DIM = 32
    torch.manual_seed(0)
    return build_model(slim_cfg)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads Linux's /proc")
@pytest.mark.parametrize("what", ["training", "inference"])
def test_memory_is_flat_at_changing_image_sizes(detector, what):
    training = what == "training"
    detector.train(training)
    optimizer = torch.optim.SGD(detector.parameters(), lr=1e-4)
    draw = random.Random(0)
    resident = []
    for _ in range(ROUNDS):
        records = [random_record(draw) for _ in range(2 if training else 1)]
        if training:
            with EventStorage():
                loss = sum(detector(records).values())
            assert torch.isfinite(loss)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        else:
            with torch.no_grad():
                detector(records)
        resident.append(resident_bytes())
    quarter = ROUNDS // 4
    first, last = max(resident[:quarter]), max(resident[-quarter:])
    print(
        f"{what}: {ROUNDS} rounds, resident at most {first / 2**20:.0f} MiB in the first quarter, "
        f"{last / 2**20:.0f} MiB in the last"
    )
    assert last <= first + MARGIN
