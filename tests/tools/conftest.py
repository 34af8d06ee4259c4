import cv2
import numpy as np
import pytest
import torch
from detectron2.modeling import build_model


@pytest.fixture
def slim_detector(slim_cfg, tmp_path):
    """A configuration file, and the weights of an untrained model that finds something."""
    slim_cfg.MODEL.ROI_HEADS.NUM_CLASSES = 2
    slim_cfg.DATASETS.TEST = ()
    torch.manual_seed(0)
    weights, config = tmp_path / "model.pth", tmp_path / "slim.yaml"
    torch.save({"model": build_model(slim_cfg).state_dict()}, weights)
    slim_cfg.MODEL.WEIGHTS = str(weights)
    config.write_text(slim_cfg.dump())
    return str(config)


@pytest.fixture
def image_files(tmp_path):
    """Two images, of different sizes."""
    rng = np.random.default_rng(0)
    files = []
    for index, size in enumerate([(96, 128), (64, 64)]):
        files.append(str(tmp_path / f"image {index}.png"))
        cv2.imwrite(files[-1], rng.integers(0, 256, (*size, 3), dtype=np.uint8))
    return files
