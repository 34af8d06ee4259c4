"""What a wrong configuration is answered with: a sentence, before anything is read or written."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.engine import default_argument_parser
from tiny_training import arguments, write_config, write_images

from enl_detectron2.training import checks, trainer
from enl_detectron2.training.config import load_config
from enl_detectron2.training.errors import ConfigError
from enl_detectron2.training.trainer import run

ROOT = Path(__file__).parents[2]
LAZY = ROOT / "configs/lazy/enl_rcnn_R50.py"

# key, value, and what of the answer stands beside the key and the value.
YAML_VALUES = [
    # Names
    ("MODEL.ENL_FPN.BLOCK", "ENLBlok", "ENLBlock"),
    ("MODEL.ENL_FPN.BOTTOM_UP", "build_resnet", "build_resnet_backbone"),
    ("MODEL.ENL_FPN.TOP_BLOCK", "LastLevelP7", "LastLevelP6P7"),
    ("MODEL.ENL_FPN.PHI_NORM", "soft", "softmax"),
    ("MODEL.ENL_FPN.THETA_NORM", "sigmoid", "tanh"),
    ("MODEL.ENL_FPN.POSITION", "cos", "cos_add"),
    ("MODEL.ENL_FPN.POSITION", "cos_mul", "ENLBlock"),  # which would need the N×N matrix
    ("MODEL.BACKBONE.NAME", "ENLFPN", "ENL_FPN"),
    ("MODEL.META_ARCHITECTURE", "FasterRCNN", "GeneralizedRCNN"),
    ("MODEL.PROPOSAL_GENERATOR.NAME", "RPM", "RPN"),
    ("MODEL.ROI_HEADS.NAME", "ROIHead", "StandardROIHeads"),
    ("MODEL.FPN.FUSE_TYPE", "max", "'sum', 'avg'"),
    ("MODEL.FPN.NORM", "BatchNorm", "'BN'"),
    ("MODEL.RESNETS.NORM", "bn", "'BN'"),
    ("MODEL.DEVICE", "gpu", "'cpu'"),
    ("MODEL.DEVICE", "cuda:99", "'cpu'"),
    ("SOLVER.OPTIMIZER", "Adam", "'AdamW'"),
    ("SOLVER.LR_SCHEDULER_NAME", "Cosine", "'WarmupCosineLR'"),
    ("SOLVER.WARMUP_METHOD", "exponential", "'linear'"),
    ("DATALOADER.SAMPLER_TRAIN", "RandomSampler", "'TrainingSampler'"),
    ("DATALOADER.ON_BAD_IMAGE", "skip", "'stop' or 'replace'"),
    ("INPUT.FORMAT", "GRAY", "'BGR'"),
    ("INPUT.FORMAT", "YUV-BT.601", "'BGR'"),  # whose float64 no model takes
    ("INPUT.RANDOM_FLIP", "both", "'horizontal'"),
    ("INPUT.MIN_SIZE_TRAIN_SAMPLING", "uniform", "'choice'"),
    ("DATASETS.TRAIN", "('coco_2018_train',)", "no data set of this name"),
    # Types
    ("MODEL.FPN.OUT_CHANNELS", "many", "type int"),
    ("MODEL.ENL_FPN.NUM_FREQUENCIES", "9.5", "type int"),
    ("SOLVER.BASE_LR", "fast", "type float"),
    ("MODEL.ENL_FPN.BLOCK_FEATURES", "res3", "type list"),
    ("MODEL.ENL_FPN.ZERO_INIT_RESIDUAL", "yes", "type bool"),
    # Ranges
    ("MODEL.FPN.OUT_CHANNELS", "0", "at least 1"),
    ("MODEL.ENL_FPN.NUM_FREQUENCIES", "0", "at least 1"),
    ("MODEL.ENL_FPN.L1_SCALE", "-1.0", "above 0"),
    ("MODEL.ENL_FPN.INIT_STD", "0.0", "above 0"),
    ("MODEL.RESNETS.DEPTH", "51", "50"),
    ("MODEL.RESNETS.WIDTH_PER_GROUP", "-4", "at least 1"),
    ("MODEL.ROI_HEADS.NUM_CLASSES", "0", "at least 1"),
    ("MODEL.ROI_HEADS.POSITIVE_FRACTION", "1.5", "from 0 to 1"),
    ("MODEL.RPN.NMS_THRESH", "-0.5", "from 0 to 1"),
    ("MODEL.RPN.IOU_THRESHOLDS", "[0.7, 0.3]", "ascending"),
    ("MODEL.BACKBONE.FREEZE_AT", "9", "5"),
    ("MODEL.PIXEL_MEAN", "[1.0, 2.0]", "three numbers"),
    ("MODEL.PIXEL_MEAN", "[1.0]", "each colour of INPUT.FORMAT 'BGR'"),
    ("MODEL.PIXEL_STD", "[1.0, 1.0, 0.0]", "above 0"),
    ("MODEL.ANCHOR_GENERATOR.SIZES", "[[-8]]", "above 0"),
    ("SOLVER.IMS_PER_BATCH", "0", "at least 1"),
    ("SOLVER.MAX_ITER", "-5", "at least 1"),
    ("SOLVER.BASE_LR", "-0.1", "above 0"),
    ("SOLVER.BASE_LR", "1e999", "above 0"),
    ("SOLVER.MOMENTUM", "1.0", "below 1"),
    ("SOLVER.STEPS", "(4, 2)", "ascending"),
    ("SOLVER.CHECKPOINT_PERIOD", "0", "at least 1"),
    ("DATALOADER.NUM_WORKERS", "-1", "at least 0"),
    ("INPUT.MIN_SIZE_TRAIN", "(-64,)", "at least 0"),
    ("INPUT.MAX_SIZE_TRAIN", "0", "at least 1"),
    ("DATASETS.TRAIN", "()", "at least one"),
    # What doesn't fit together
    ("MODEL.FPN.IN_FEATURES", "['res2', 'res6']", "res5"),
    ("MODEL.FPN.IN_FEATURES", "['res2', 'res4']", "twice"),
    ("MODEL.FPN.IN_FEATURES", "['res5', 'res4']", "high to low"),
    ("MODEL.ENL_FPN.BLOCK_FEATURES", "['res3', 'p4']", "res4"),
    ("MODEL.RPN.IN_FEATURES", "['p2', 'p9']", "p6"),
    ("MODEL.ROI_HEADS.IN_FEATURES", "['res4']", "p4"),
    ("MODEL.ROI_HEADS.IN_FEATURES", "['p2', 'p4']", "follow each other"),
    ("MODEL.ANCHOR_GENERATOR.SIZES", "[[8], [16]]", "one for each"),
    ("MODEL.FPN.OUT_CHANNELS", "24", "multiple of 32"),
    ("MODEL.RESNETS.STEM_OUT_CHANNELS", "40", "multiple of 32"),
]
# What two of them don't fit.
BESIDE = {
    ("MODEL.FPN.OUT_CHANNELS", "24"): ("MODEL.FPN.NORM", "GN"),
    ("MODEL.RESNETS.STEM_OUT_CHANNELS", "40"): ("MODEL.RESNETS.NORM", "GN"),
}
LAZY_VALUES = [
    ("model.backbone.block", "ENLBlok", "ENLBlock"),
    ("model.backbone.blok", "ENLBlock", "block_features"),
    ("model.backbone.block_options.phi_norm", "soft", "softmax"),
    ("model.backbone.block_options.phi", "softmax", "phi_norm"),
    ("model.backbone.block_features", "[res3,res9]", "res4"),
    ("model.backbone.in_features", "[res2,res4]", "twice"),
    ("model.backbone.out_channels", "0", "at least 1"),
    ("model.backbone.out_channels", "many", "at least 1"),
    ("model.backbone.norm", "Batch", "'BN'"),
    ("model.backbone.fuse_type", "max", "'sum', 'avg'"),
    ("model.roi_heads.num_classes", "0", "at least 1"),
    ("model.proposal_generator.in_features", "[p2,p9]", "p6"),
    ("model.pixel_std", "[1,1]", "three numbers"),
    ("optimizer.lr", "-1", "above 0"),
    ("optimizer.learning_rate", "1", "lr"),
    ("dataloader.train.total_batch_size", "0", "at least 1"),
    ("dataloader.train.dataset.names", "coco_2018_train", "no data set of this name"),
    ("train.max_iter", "-1", "at least 1"),
    ("train.max_itr", "5", "max_iter"),
    ("train.device", "gpu", "'cpu'"),
    ("train.on_bad_image", "skip", "'replace'"),
    ("trian.max_iter", "5", "train"),
]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    write_images(folder)
    yield write_config(folder)
    for name in [name for name in DatasetCatalog.list() if name.startswith("tiny ")]:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


@pytest.fixture(autouse=True)
def nothing_is_read(monkeypatch):
    def read(*args, **options):
        raise AssertionError("data was read")

    monkeypatch.setattr(trainer, "check_data_sets", read)
    monkeypatch.setattr(DatasetCatalog, "get", read)


def answer(args, kind=ConfigError):
    with pytest.raises(kind) as error:
        run(args)
    message = str(error.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("key, value, right", YAML_VALUES)
def test_yaml(tiny, tmp_path, key, value, right):
    words = [*BESIDE.get((key, value), ()), key, value, "OUTPUT_DIR", tmp_path / "output"]
    message = answer(arguments(tiny, *words))
    assert key in message and right in message
    # Lists and tuples are shown as Python has them, of some the wrong member alone.
    members = [re.escape(word) for word in re.findall(r"[\w.-]+", value)]
    assert not members or re.search("|".join(members), message.replace("inf", "1e999"))
    assert not (tmp_path / "output").exists()


@pytest.mark.parametrize("key, value, right", LAZY_VALUES)
def test_lazy(tmp_path, key, value, right):
    words = ["train.device=cpu", f"train.output_dir={tmp_path / 'output'}", f"{key}={value}"]
    args = default_argument_parser().parse_args(["--config-file", str(LAZY), *words])
    message = answer(args)
    # Blocks know their options by name, wherever those come from.
    assert key in message or key.rpartition(".")[2] in message.lower()
    assert right in message and value.strip("[]").rpartition(",")[2] in message
    assert not (tmp_path / "output").exists()


@pytest.mark.parametrize(
    "words, said",
    [
        (["MODEL.ENL_FPN.POSTION", "none"], "POSTION is not a key .* MODEL.ENL_FPN.POSITION"),
        (["MODEL.FPN"], "pairs of KEY VALUE; .*'MODEL.FPN', has no partner"),
        (["DATASETS.COCO_FORMAT", "[['a', 'b']]"], r"DATASETS.COCO_FORMAT takes .*\['a', 'b'\]"),
    ],
)
def test_overrides(tiny, words, said):
    assert re.search(said, answer(arguments(tiny, *words)))


@pytest.mark.parametrize(
    "content, said",
    [
        ("MODEL:\n  ENL_FPN:\n    BLOK: ENLBlock\n", "MODEL.ENL_FPN.BLOK is not a key"),
        ("MODEL: [1, 2\n", "is no YAML"),
        ("- 1\n- 2\n", "no configuration"),
        ("SOLVER:\n  MAX_ITER: soon\n", "SOLVER.MAX_ITER must be of the type int, .* got 'soon'"),
    ],
)
def test_files(tmp_path, content, said):
    (tmp_path / "wrong.yaml").write_text("VERSION: 2\n" * (content[0] != "-") + content)
    message = answer(arguments(tmp_path / "wrong.yaml"))
    assert re.search(said, message) and "wrong.yaml" in message


def test_a_base_that_is_not_there(tmp_path):
    (tmp_path / "leaf.yaml").write_text("_BASE_: gone.yaml\n")
    message = answer(arguments(tmp_path / "leaf.yaml"), FileNotFoundError)
    assert "leaf.yaml: its _BASE_ can't be read" in message and "gone.yaml" in message


def test_a_batch_may_be_fitted_to_the_number_of_processes(tiny, monkeypatch):
    monkeypatch.setattr(checks.comm, "get_world_size", lambda: 3)
    cfg = load_config(str(tiny), ["SOLVER.IMS_PER_BATCH", "16", "DATASETS.TRAIN", "()"])
    with pytest.raises(ConfigError, match="multiple of the number of processes, 3, got 16"):
        checks.check_yaml(cfg, eval_only=False)
    cfg.SOLVER.REFERENCE_WORLD_SIZE = 8
    with pytest.raises(ConfigError, match="DATASETS.TRAIN must name"):
        checks.check_yaml(cfg, eval_only=False)
    cfg.SOLVER.IMS_PER_BATCH = 12
    with pytest.raises(ConfigError, match="multiple of the number of processes, 8, got 12"):
        checks.check_yaml(cfg, eval_only=False)


def test_lazy_files(tmp_path):
    path = tmp_path / "wrong.py"
    path.write_text("model = dict(\n")
    assert re.search(r"wrong.py is no Python, line 1: ", answer(arguments(path)))
    path.write_text("model = dict()\n")
    assert "has no 'dataloader'" in answer(arguments(path))
    message = answer(arguments(LAZY, "train.max_iter"))
    assert "'train.max_iter' must be key=value" in message


def test_the_projects_own_are_right(monkeypatch):
    """Without building them, which tests/test_configs.py does."""
    monkeypatch.setattr(checks, "instantiate", lambda node: None)
    for path in (ROOT / "configs").rglob("[a-z]*.yaml"):
        words = ["MODEL.DEVICE", "cpu", "DATASETS.TRAIN", "('coco_2017_val',)"]
        cfg = load_config(str(path), [*words, "DATASETS.TEST", "()"])
        checks.check_yaml(cfg)
    for path in (ROOT / "configs/lazy").rglob("*rcnn*.py"):
        checks.check_lazy(load_config(str(path), ["train.device=cpu"]))


@pytest.mark.parametrize("name", ["none.yaml", "none.py"])
def test_a_file_that_is_not_there(tmp_path, name):
    assert name in answer(arguments(tmp_path / name), FileNotFoundError)


def test_train_net_says_it_in_a_line(tmp_path):
    command = [sys.executable, ROOT / "train_net.py", "--config-file", tmp_path / "none.yaml"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("train_net.py: error: --config-file: there is")
    assert "Traceback" not in done.stderr
