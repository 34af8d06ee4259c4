"""What a wrong configuration is answered with: a sentence, before anything is read or written."""

import re
import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest
from detectron2 import model_zoo
from detectron2.data import DatasetCatalog
from detectron2.engine import default_argument_parser
from tiny_training import arguments, write_config, write_images

from enl_detectron2.training import checks, lazy, trainer
from enl_detectron2.training.config import load_config
from enl_detectron2.training.launch import run
from enl_detectron2.utils.errors import ConfigError

ROOT = Path(__file__).parents[2]
LAZY = ROOT / "configs/lazy/enl_rcnn_R50.py"

# Options, and a pattern of the answer. This project's own checks name key and value.
NAMED = [
    ("MODEL.ENL_FPN.BLOCK ENLBlok", "MODEL.ENL_FPN.BLOCK must be .*ENLBlock.*'ENLBlok'"),
    ("MODEL.ENL_FPN.BOTTOM_UP build_resnet", "BOTTOM_UP .*build_resnet_backbone.*'build_resnet'"),
    ("MODEL.ENL_FPN.TOP_BLOCK LastLevelP7", "LastLevelP6P7.*LastLevelP7"),
    ("MODEL.ENL_FPN.BLOCK_FEATURES ['res3','p4']", "BLOCK_FEATURES.*res4.*p4|p4.*res4"),
    ("MODEL.FPN.OUT_CHANNELS 0", "at least 1, got 0"),
    ("MODEL.FPN.IN_FEATURES ['res2','res6']", "res6"),
    ("MODEL.BACKBONE.NAME ENLFPN", "MODEL.BACKBONE.NAME .*'ENLFPN'; did you mean ENL_FPN"),
    ("MODEL.META_ARCHITECTURE GeneralRCNN", "META_ARCHITECTURE .*did you mean GeneralizedRCNN"),
    ("MODEL.PROPOSAL_GENERATOR.NAME RPM", "PROPOSAL_GENERATOR.NAME .*'RPM'; did you mean RPN"),
    ("MODEL.ROI_HEADS.NAME StandardHeads", "ROI_HEADS.NAME .*did you mean StandardROIHeads"),
    ("SOLVER.OPTIMIZER Adam", "SOLVER.OPTIMIZER must be 'SGD' or 'AdamW', got 'Adam'"),
    ("DATALOADER.ON_BAD_IMAGE skip", "ON_BAD_IMAGE must be 'stop' or 'replace', got 'skip'"),
    ("DATASETS.TRAIN ('coco_2018_train',)", "DATASETS.TRAIN .*did you mean coco_201._train"),
    ("DATASETS.TRAIN ()", "DATASETS.TRAIN must name at least one data set"),
    ("DATASETS.TEST ('voc_2007_val',)", "'voc_2007_val' has the evaluator type 'pascal_voc'"),
    ("DATASETS.COCO_FORMAT [['a','b']]", r"DATASETS.COCO_FORMAT takes .*\['a', 'b'\]"),
    ("SOLVER.CHECKPOINT_PERIOD 0", "SOLVER.CHECKPOINT_PERIOD must be at least 1, got 0"),
    ("SOLVER.AMP.ENABLED True", "SOLVER.AMP.ENABLED must be False on cpu"),
    ("MODEL.WEIGHTS no/such.pth", "MODEL.WEIGHTS .*: 'no/such.pth' isn't there"),
    ("MODEL.WEIGHTS /tmp", "MODEL.WEIGHTS .*: '/tmp' is a folder"),
    ("MODEL.WEIGHTS http://127.0.0.1:9/a.pth", "MODEL.WEIGHTS .*: 'http:.*' can't be fetched"),
    ("MODEL.WEIGHTS nowhere://a.pth", "MODEL.WEIGHTS .*nowhere://a.pth' isn't there"),
    # Keys and types
    (
        "MODEL.ENL_FPN.BLOKC ENLBlock",
        "BLOKC is not a key .*did you mean MODEL.ENL_FPN.BLOCK",
    ),
    ("SOLVER.OPTIMISER SGD", "SOLVER.OPTIMISER is not a key .*did you mean SOLVER.OPTIMIZER"),
    ("MODEL.FPN", "pairs of KEY VALUE; the last one here, 'MODEL.FPN', has no partner"),
    ("MODEL.FPN.OUT_CHANNELS many", "many.* for config key: MODEL.FPN.OUT_CHANNELS"),
    ("SOLVER.BASE_LR fast", "fast.* for config key: SOLVER.BASE_LR"),
]
# detectron2's own errors, in one line with the configuration's file and what was built.
BUILT = [
    ("MODEL.DEVICE gpu", "the model can't be built: RuntimeError: .*gpu"),
    ("MODEL.DEVICE mps", "the model can't be built: .*[Mm][Pp][Ss]"),
    ("MODEL.DEVICE cuda:99", "the model can't be built: .*(CUDA|NVIDIA|cuda)"),
    ("MODEL.FPN.FUSE_TYPE max", "the model can't be built: AssertionError.*fuse_type"),
    ("MODEL.FPN.NORM BatchNorm", "the model can't be built: KeyError: BatchNorm"),
    ("MODEL.FPN.OUT_CHANNELS 24 MODEL.FPN.NORM GN", "the model can't be built: .*num_groups"),
    ("MODEL.RESNETS.DEPTH 51", "the model can't be built: KeyError: 51"),
    ("MODEL.RPN.IN_FEATURES ['p2','p9']", "the model can't be built: KeyError: p9"),
    ("MODEL.RPN.IOU_THRESHOLDS [0.7,0.3]", "the model can't be built: AssertionError"),
    ("MODEL.ANCHOR_GENERATOR.SIZES [[8],[16]]", "the model can't be built: AssertionError.*siz"),
    ("MODEL.ROI_HEADS.IN_FEATURES ['p2','p4']", "the model can't be built: AssertionError"),
    ("MODEL.ROI_HEADS.NAME CascadeROIHeads", "CascadeROIHeads only support class-agnostic"),
    ("SOLVER.BASE_LR -0.1", "the optimizer can't be built: ValueError: Invalid learning rate"),
    ("SOLVER.LR_SCHEDULER_NAME Cosine", "schedule can't be built: ValueError: Unknown LR .*Cosine"),
    ("SOLVER.STEPS (4,2)", "the learning rate's schedule can't be built"),
    ("SOLVER.IMS_PER_BATCH 0", r"images can't be built: AssertionError: Total batch size \(0\)"),
    ("DATALOADER.SAMPLER_TRAIN RandomSampler", "Unknown training sampler: RandomSampler"),
    ("DATALOADER.SAMPLER_TRAIN RandomSubsetTrainingSampler", "RANDOM_SUBSET_RATIO"),
    ("DATALOADER.SAMPLER_TRAIN WeightedTrainingSampler", "TRAIN_REPEAT_FACTOR"),
    ("INPUT.CROP.ENABLED True INPUT.CROP.TYPE bogus", 'images can\'t .*"relative_range"'),
    ("INPUT.MIN_SIZE_TRAIN_SAMPLING uniform", "images can't be built: AssertionError: uniform"),
    ("INPUT.MIN_SIZE_TRAIN_SAMPLING range INPUT.MIN_SIZE_TRAIN (1,2,3)", "must be two values"),
    ("TEST.AUG.ENABLED True MODEL.META_ARCHITECTURE RetinaNet", "can't be built"),
]
LAZY_OPTIONS = [
    ("model.backbone.block=ENLBlok", "block must be .*ENLBlock.*ENLBlok"),
    ("model.backbone.blok=ENLBlock", "model.backbone.blok can't be set to 'ENLBlock'.*block"),
    ("+model.backbone.block_options={phi:softmax}", "phi"),
    ("model.backbone.block_features=[res3,res9]", "res9"),
    ("model.backbone.in_features=[res2,res4]", "high to low resolution"),
    ("model.backbone.out_channels=many", "the model can't be built"),
    (
        "model.proposal_generator.in_features=[p2,p9]",
        "names 'p9', but the backbone .*p2, p3",
    ),
    ("optimizer.lr=-1", "the optimizer can't be built: .*Invalid learning rate: -1"),
    (
        "optimizer.learning_rate=1",
        "learning_rate can't be set to '1': optimizer has .*lr",
    ),
    ("dataloader.train.dataset.names=coco_2018_train", "names 'coco_2018_train', but no data set"),
    ("dataloader.coco_format=[[a,b]]", "takes .name, annotation file, image folder. .*'b'"),
    ("train.checkpointer.period=0", "train.checkpointer.period must be at least 1, got 0"),
    ("train.init_checkpoint=no/such.pth", "train.init_checkpoint.: 'no/such.pth' isn't there"),
    ("train.max_itr=5", "train.max_itr can't be set to '5': train has .*max_iter"),
    ("train.device=gpu", "the model can't be built: .*gpu"),
    ("train.on_bad_image=skip", "train.on_bad_image must be .*'replace', got 'skip'"),
    ("trian.max_iter=5", "trian.max_iter can't be set to '5': the configuration has .*train"),
    ("train.max_iter", "'train.max_iter' must be key=value"),
]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    write_images(folder)
    return write_config(folder)


@pytest.fixture
def nothing_is_read(monkeypatch):
    def read(*args, **kwargs):
        raise AssertionError("data was read")

    monkeypatch.setattr(trainer, "check_data_sets", read)
    monkeypatch.setattr(lazy, "check_data_sets", read)
    monkeypatch.setattr(DatasetCatalog, "get", read)


def answer(args, kind=ConfigError):
    with pytest.raises(kind) as error:
        run(args)
    message = str(error.value)
    assert "\n" not in message and len(message) < 800
    return message


@pytest.mark.parametrize("options, said", NAMED)
def test_yaml_that_is_checked_here(tiny, tmp_path, nothing_is_read, options, said):
    words = [*options.split(), *(["OUTPUT_DIR", tmp_path / "no"] if " " in options else [])]
    assert re.search(said, answer(arguments(tiny, *words)))
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize("options, said", BUILT)
def test_yaml_that_detectron2_refuses(tiny, tmp_path, options, said):
    message = answer(arguments(tiny, *options.split(), "OUTPUT_DIR", tmp_path / "no"))
    assert message.startswith(f"{tiny}: ") and re.search(said, message)
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize("option, said", LAZY_OPTIONS)
def test_lazy(tmp_path, nothing_is_read, option, said):
    words = ["train.device=cpu", f"train.output_dir={tmp_path / 'no'}", "train.init_checkpoint=''"]
    args = default_argument_parser().parse_args(["--config-file", str(LAZY), *words, option])
    assert re.search(said, answer(args))
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize(
    "content, said",
    [
        ("MODEL:\n  ENL_FPN:\n    BLOK: ENLBlock\n", "MODEL.ENL_FPN.BLOK is not a key"),
        ("MODEL: [1, 2\n", "is no YAML"),
        ("- 1\n- 2\n", "is no configuration"),
        ("", "is no configuration"),
        ("SOLVER:\n  MAX_ITER: soon\n", "soon.* for config key: SOLVER.MAX_ITER"),
        ("_BASE_: [1]\n", "can't be read"),
        ("_BASE_: wrong.yaml\n", "wrong.yaml includes itself"),
        ("_BASE_: ./other/../wrong.yaml\n", "includes itself"),
        ("a: &a [*a]\n", "more than 100000 values"),
        ("a: " + "[" * 5000 + "]" * 5000, "nested too deeply"),
    ],
)
def test_yaml_files(tmp_path, content, said):
    (tmp_path / "other").mkdir()
    (tmp_path / "wrong.yaml").write_text(content)
    message = answer(arguments(tmp_path / "wrong.yaml"))
    assert re.search(said, message) and "wrong.yaml" in message


def test_two_files_that_include_each_other(tmp_path):
    (tmp_path / "one.yaml").write_text("_BASE_: two.yaml\n")
    (tmp_path / "two.yaml").write_text("_BASE_: one.yaml\n")
    assert "includes itself" in answer(arguments(tmp_path / "one.yaml"))


def test_a_base_that_is_not_there(tmp_path):
    (tmp_path / "leaf.yaml").write_text("_BASE_: gone.yaml\n")
    message = answer(arguments(tmp_path / "leaf.yaml"), FileNotFoundError)
    assert "leaf.yaml: its _BASE_ can't be read" in message and "gone.yaml" in message


CODE = "MODEL: !!python/object/apply:os.system [\"touch '{}'\"]\n"


@pytest.mark.parametrize("flags", [(), ("--eval-only",)])
@pytest.mark.parametrize("as_base", [False, True])
def test_yaml_runs_no_code(tmp_path, flags, as_base):
    mark = tmp_path / "was run"
    (tmp_path / "evil.yaml").write_text(CODE.format(mark))
    (tmp_path / "leaf.yaml").write_text("_BASE_: evil.yaml\n")
    config = tmp_path / ("leaf.yaml" if as_base else "evil.yaml")
    message = answer(arguments(config, *flags))
    assert "evil.yaml" in message and "its tag tag:yaml.org,2002:python/object/apply" in message
    assert not mark.exists()


def test_detectron2s_own_configurations_may_evaluate(tmp_path):
    base = model_zoo.get_config_file("Base-RetinaNet.yaml")
    assert "apply:eval" in Path(base).read_text()
    (tmp_path / "leaf.yaml").write_text(f"_BASE_: {base}\n")
    for file in (base, tmp_path / "leaf.yaml"):
        assert load_config(file).MODEL.ANCHOR_GENERATOR.SIZES[0][0] == 32
    # A copy of it is anyone's.
    (tmp_path / "copy.yaml").write_text(Path(base).read_text())
    with pytest.raises(ConfigError, match="copy.yaml is refused: its tag"):
        load_config(tmp_path / "copy.yaml")


def test_aliases_do_not_fill_the_memory(tmp_path):
    lines = ["a0: &a0 [" + ", ".join(["lol"] * 10) + "]"]
    lines += [f"a{i}: &a{i} [" + ", ".join([f"*a{i - 1}"] * 10) + "]" for i in range(1, 12)]
    (tmp_path / "laughs.yaml").write_text("\n".join(lines))
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    assert "more than 100000 values" in answer(arguments(tmp_path / "laughs.yaml"))
    assert time.monotonic() - start < 5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KiB


def test_aliases_and_merged_keys_are_read(tmp_path):
    (tmp_path / "good.yaml").write_text(
        "MODEL:\n  FPN: &fpn {OUT_CHANNELS: 32}\n  ENL_FPN: {BLOCK: ''}\n"
        "  RPN: {<<: {BATCH_SIZE_PER_IMAGE: 8}}\nTEST: {KEYPOINT_OKS_SIGMAS: &list [1.0]}\n"
    )
    cfg = load_config(tmp_path / "good.yaml")
    assert cfg.MODEL.FPN.OUT_CHANNELS == 32 and cfg.MODEL.RPN.BATCH_SIZE_PER_IMAGE == 8


def test_a_file_of_the_first_version_is_upgraded(tmp_path):
    (tmp_path / "old.yaml").write_text("VERSION: 1\nMODEL:\n  WEIGHT: old.pth\n")
    assert load_config(tmp_path / "old.yaml").MODEL.WEIGHTS == "old.pth"


@pytest.mark.parametrize("name", ["none.yaml", "none.py"])
def test_a_file_that_is_not_there(tmp_path, name):
    assert name in answer(arguments(tmp_path / name), FileNotFoundError)


@pytest.mark.parametrize(
    "content, said",
    [
        ("model = dict(\n", r"wrong.py is no Python, line 1: "),
        ("model = dict()\n", "has no 'dataloader'"),
        ("x = 1\nimport no_such_package\n", "wrong.py, line 2: ModuleNotFoundError: .*no_such_p"),
        ("from .gone import model\n", "wrong.py, line 1: ImportError: .*gone"),
        ("x = 1 / 0\n", "wrong.py, line 1: ZeroDivisionError"),
    ],
)
def test_lazy_files(tmp_path, content, said):
    (tmp_path / "wrong.py").write_text(content)
    assert re.search(said, answer(arguments(tmp_path / "wrong.py")))


@pytest.mark.parametrize("kind", ["file", "below a file"])
def test_an_output_folder_that_can_not_be_made(tiny, tmp_path, kind):
    (tmp_path / "file").write_text("mine")
    output = tmp_path / ("file" if kind == "file" else "file/output")
    message = answer(arguments(tiny, "OUTPUT_DIR", output))
    assert message.startswith(f"OUTPUT_DIR: {output} can't be written to: ")
    assert (tmp_path / "file").read_text() == "mine"


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


def test_frozen_layers_with_random_weights_are_warned_of(tiny, tmp_path, caplog):
    words = ("OUTPUT_DIR", tmp_path, "MODEL.BACKBONE.FREEZE_AT", 2)
    trainer.Trainer.from_args(arguments(tiny, *words))
    assert "MODEL.WEIGHTS is empty, so all weights are random" in caplog.text
    caplog.clear()
    trainer.Trainer.from_args(arguments(tiny, "OUTPUT_DIR", tmp_path))
    assert "weights are random" not in caplog.text


def test_train_net_says_it_in_a_line(tmp_path):
    command = [sys.executable, ROOT / "train_net.py", "--config-file", tmp_path / "none.yaml"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("train_net.py: error: --config-file: there is")
    assert "Traceback" not in done.stderr
    # As many processes as there are say it once.
    done = subprocess.run([*command, "--num-gpus", "2"], capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.count("train_net.py: error: ") == 1
    done = subprocess.run([*command, "--traceback"], capture_output=True, text=True)
    assert "Traceback" in done.stderr and done.returncode == 1
