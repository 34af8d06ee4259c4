"""Can the environment of this Python run `make demo` (or `make test`)? One sentence; no change.

python tools/check_env.py demo|test
"""

import importlib.util
import sys
from pathlib import Path

# Each module that is imported, and the package that brings it.
NEEDS = {
    "numpy": "numpy",
    "torch": "torch",
    "torchvision": "torchvision",
    "fvcore": "fvcore",
    "pycocotools": "pycocotools",
    "cv2": "opencv-python",
    "matplotlib": "matplotlib",
    "efficientnet_lite_pytorch": "efficientnet-lite-pytorch",
}
TEST_NEEDS = {
    "pytest": "pytest",
    "xdist": "pytest-xdist",
    "pytest_timeout": "pytest-timeout",
    "hatchling": "hatchling",
    "ruff": "ruff",
    "mypy": "mypy",
    "scipy": "scipy",
    "sklearn": "scikit-learn",
    "onnx": "onnx",
    "onnxruntime": "onnxruntime",
    "safetensors": "safetensors",
}

python = sys.executable
needs = NEEDS | TEST_NEEDS if sys.argv[1] == "test" else NEEDS
missing = " ".join(needs[module] for module in needs if not importlib.util.find_spec(module))
if missing:
    sys.exit(
        f"set-up: {python} lacks {missing}; nothing is installed in an environment of your own, "
        f"so do it yourself: {python} -m pip install {missing}"
    )
try:
    import detectron2
except ImportError as error:
    sys.exit(
        f"set-up: detectron2 does not import in {python} ({error}); "
        "README.md says how to install it in an environment of your own"
    )
print(f"set-up: using {python} as it is, with detectron2 in {Path(detectron2.__file__).parent}")
