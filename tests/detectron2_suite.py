"""detectron2's own tests, once as they are and once with ENL_FPN wherever they build an FPN.

    make test-official DETECTRON2=/path/to/checkout

runs them twice, prints each test that ends otherwise with ENL_FPN, and fails if one of those isn't
in EXPECTED below, or ends as without ENL_FPN although it is. Tests that fail both times say
nothing; so that the exports are none of them, nothing is downloaded: weights stay random, and the
image is noise. Called by itself, the file gives what follows the path to pytest (``-k retinanet``).

The file is also the plugin of pytest that does the swap.
"""

import argparse
import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from xml.etree import ElementTree

import torch

# The test, and why it can't end alike.
EXPECTED = {
    "tests.test_model_analysis.FasterRCNNTest::test_param_count": "the blocks have parameters",
    "tests.test_model_analysis.RetinaNetTest::test_param_count": "the blocks have parameters",
    "tests.test_model_analysis.RetinaNetTest::test_flop": "the blocks have convolutions",
}
SWAP = "ENL_FPN_IN_PLACE_OF_FPN"


def download_nothing():
    """Leaves random the weights that detectron2's tests of exports load, and makes their image."""
    from detectron2.checkpoint import DetectionCheckpointer
    from detectron2.utils import testing

    from enl_detectron2.layers import ENLBlock

    load = DetectionCheckpointer.load

    def load_files(self, path, *arguments, **keywords):
        if "://" not in path:
            return load(self, path, *arguments, **keywords)
        for block in self.model.modules():  # with random ones nothing is detected, and so compared
            if isinstance(block, ENLBlock):
                block.zero_init()
        return {}

    def noise(tensor=True):
        image = torch.randint(0, 256, (480, 640, 3), dtype=torch.uint8)
        return image.permute(2, 0, 1).contiguous() if tensor else image.numpy()

    DetectionCheckpointer.load = load_files
    testing.get_sample_coco_image = noise


def pytest_runtest_setup(item):
    torch.manual_seed(0)


def pytest_configure(config):
    """Has detectron2 build ENL_FPN by the names of FPN, in YAML and in a LazyConfig."""
    # Also imports the installed detectron2, compiled, before a test could find another one; and
    # `export` before the swap, as it gives FPN a method.
    from detectron2 import export, modeling  # noqa: F401
    from detectron2.config import CfgNode
    from detectron2.modeling import BACKBONE_REGISTRY, backbone
    from omegaconf import OmegaConf

    with contextlib.suppress(ImportError):
        import onnx.version  # noqa: F401 (its tests read it without importing it)

    download_nothing()

    from enl_detectron2 import add_enl_config
    from enl_detectron2.modeling import ENL_FPN

    def build_with(top_block):
        def build(cfg, input_shape):
            is_yacs = isinstance(cfg, CfgNode)  # it may be OmegaConf's
            cfg = cfg.clone() if is_yacs else CfgNode(OmegaConf.to_container(cfg))
            cfg.defrost()
            add_enl_config(cfg)
            cfg.MODEL.ENL_FPN.TOP_BLOCK = top_block
            return ENL_FPN(cfg, input_shape)

        return build

    if os.environ.get(SWAP):
        backbone.FPN = modeling.FPN = ENL_FPN
        # A registry has no public way to replace what it holds.
        builders = BACKBONE_REGISTRY._obj_map
        builders["build_resnet_fpn_backbone"] = build_with("LastLevelMaxPool")
        builders["build_retinanet_resnet_fpn_backbone"] = build_with("LastLevelP6P7")


def run(tests: Path, swap: bool, words: list[str]) -> dict[str, str]:
    """The outcome of each test: passed, failed, error or skipped."""
    report = tests.parent / "report.xml"
    environment = os.environ | {SWAP: "1" if swap else "", "OMP_NUM_THREADS": "1"}
    paths = [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    command = [sys.executable, "-m", "pytest", "-p", Path(__file__).stem, "-n", "2", "-q"]
    command += ["-p", "no:cacheprovider", f"--junitxml={report}", *words, tests.name]
    subprocess.run(command, cwd=tests.parent, env=environment)
    outcomes = {}
    for case in ElementTree.parse(report).iter("testcase"):
        bad = {child.tag for child in case} & {"failure", "error", "skipped"}
        name = f"{case.get('classname')}::{case.get('name')}"
        outcomes[name] = bad.pop() if bad else "passed"
    return outcomes


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkout", type=Path, help="of detectron2; its folder tests is run")
    args, words = parser.parse_known_args()
    if not (args.checkout / "tests").is_dir():
        parser.error(f"{args.checkout} has no folder tests")
    with tempfile.TemporaryDirectory() as folder:
        # Apart from the checkout, whose detectron2 isn't compiled and would be found first.
        tests = Path(shutil.copytree(args.checkout / "tests", Path(folder) / "tests"))
        print("detectron2's tests as they are", flush=True)
        plain = run(tests, False, words)
        print("detectron2's tests with ENL_FPN in place of FPN", flush=True)
        swapped = run(tests, True, words)

    differing = {name for name in plain | swapped if plain.get(name) != swapped.get(name)}
    for name in sorted(differing):
        reason = EXPECTED.get(name, "NOT EXPECTED")
        print(f"{name}: {plain.get(name)}, with ENL_FPN {swapped.get(name)}: {reason}")
    alike = sorted(name for name in EXPECTED if name in plain and name not in differing)
    for name in alike:
        print(f"{name}: {plain[name]} both times, but a difference is expected here")
    print(f"{len(plain)} tests, {len(differing)} end otherwise with ENL_FPN")
    return int(bool(alike) or not differing <= set(EXPECTED))


if __name__ == "__main__":
    sys.exit(main())
