"""Configurations from files and from names, whoever wrote them."""

import logging
from pathlib import Path

import pytest
from detectron2 import model_zoo
from detectron2.config import get_cfg

import enl_detectron2
from enl_detectron2.modeling.build import block_arguments, build_block
from enl_detectron2.training.config import get_training_cfg, load_config
from enl_detectron2.utils.errors import ConfigError

TRAINED = "trained/nuclei_enl_rcnn_lite0.yaml"


@pytest.mark.parametrize("as_base", [False, True])
def test_yaml_runs_no_code(tmp_path, as_base):
    mark = tmp_path / "was run"
    code = f"MODEL: !!python/object/apply:os.system [\"touch '{mark}'\"]\n"
    (tmp_path / "evil.yaml").write_text(code)
    (tmp_path / "leaf.yaml").write_text("_BASE_: evil.yaml\n")
    file = tmp_path / ("leaf.yaml" if as_base else "evil.yaml")
    with pytest.raises(ConfigError, match="plain values only .*object/apply:os.system"):
        load_config(file)
    assert not mark.exists()


def test_detectron2s_own_configurations_are_read_and_may_evaluate(tmp_path):
    zoo = Path(model_zoo.__file__).with_name("configs")
    files = [*zoo.rglob("*.yaml"), *zoo.glob("new_baselines/*.py")]
    assert len(files) > 70 and all(load_config(file) for file in files)
    base = zoo / "Base-RetinaNet.yaml"
    assert "apply:eval" in base.read_text()
    (tmp_path / "leaf.yaml").write_text(f"_BASE_: {base}\n")
    assert load_config(tmp_path / "leaf.yaml").MODEL.ANCHOR_GENERATOR.SIZES[0][0] == 32
    (tmp_path / "copy.yaml").write_text(base.read_text())  # is anyone's
    with pytest.raises(ConfigError, match="copy.yaml can't be read"):
        load_config(tmp_path / "copy.yaml")


def test_what_detectron2_reads_is_read(tmp_path, caplog):
    (tmp_path / "good.yaml").write_text(
        "MODEL:\n  FPN: &fpn {OUT_CHANNELS: 32}\n  RPN: {<<: {BATCH_SIZE_PER_IMAGE: 8}}\n"
    )
    cfg = load_config(tmp_path / "good.yaml", ["SOLVER.BASE_LR", "0.5"])
    assert cfg.MODEL.FPN.OUT_CHANNELS == 32 and cfg.MODEL.RPN.BATCH_SIZE_PER_IMAGE == 8
    assert cfg.SOLVER.BASE_LR == 0.5
    (tmp_path / "twice.yaml").write_text("MODEL: {MASK_ON: True}\nMODEL: {DEVICE: cpu}\n")
    assert not load_config(tmp_path / "twice.yaml").MODEL.MASK_ON
    assert "twice.yaml has MODEL more than once: only the last one counts" in caplog.text
    (tmp_path / "old.yaml").write_text("VERSION: 1\nMODEL:\n  WEIGHT: old.pth\n")
    assert load_config(tmp_path / "old.yaml").MODEL.WEIGHTS == "old.pth"
    with pytest.raises(AssertionError, match="Non-existent key: SOLVER.BASE_LRR"):
        load_config(tmp_path / "good.yaml", ["SOLVER.BASE_LRR", "0.5"])
    (tmp_path / "cut.yaml").write_text("MODEL: [1, 2\n")
    with pytest.raises(ConfigError, match="cut.yaml can't be read"):
        load_config(tmp_path / "cut.yaml")


def test_a_base_may_be_a_name_of_the_zoo(tmp_path):
    mine = tmp_path / "mine.yaml"
    mine.write_text(f"_BASE_: {TRAINED}\nMODEL: {{ROI_HEADS: {{NUM_CLASSES: 3}}}}\n")
    model, theirs = load_config(mine).MODEL, load_config(TRAINED).MODEL
    assert model.ROI_HEADS.NUM_CLASSES == 3 and model.ENL_FPN == theirs.ENL_FPN
    (tmp_path / "trained").mkdir()  # a file that is there comes first
    (tmp_path / TRAINED).write_text("MODEL: {MASK_ON: True}\n")
    assert load_config(mine).MODEL.MASK_ON
    mine.write_text("_BASE_: trained/none.yaml\n")
    with pytest.raises(FileNotFoundError, match="trained/none.yaml"):
        load_config(mine)


def test_a_command_line_takes_a_mapping_for_a_node():
    key, options = "MODEL.ENL_FPN.BLOCK_OPTIONS", "{init_std: 0.5, position_options: {'scale': 3}}"
    opts = [f"{key}.position", "l1_add", key, options, "SOLVER.MAX_ITER", "7"]
    cfg = load_config("enl_rcnn_R50.yaml", opts)
    found = cfg.MODEL.ENL_FPN.BLOCK_OPTIONS
    assert (found.init_std, found.position_options.scale, found.position) == (0.5, 3, "l1_add")
    assert cfg.SOLVER.MAX_ITER == 7
    with pytest.raises(KeyError, match="SOLVER.MAX_ITR"):
        load_config("enl_rcnn_R50.yaml", ["SOLVER", "{MAX_ITR: 7}"])
    with pytest.raises(ValueError, match="Type mismatch"):
        load_config("enl_rcnn_R50.yaml", ["SOLVER", "7"])


def test_a_file_may_name_options_of_a_term_that_is_yet_to_be_imported(tmp_path):
    (tmp_path / "mine.yaml").write_text(
        "MODEL: {ENL_FPN: {BLOCK_OPTIONS: {position: my_add, position_options: {sigma: 5}}}}"
    )
    node = load_config(tmp_path / "mine.yaml").MODEL.ENL_FPN
    with pytest.raises(ValueError, match="'my_add'; a term of your own must be imported first"):
        build_block("ENLBlock", 8, block_arguments(node)["block_options"], False)


def test_a_runs_configuration_loads_in_any_script(tmp_path):
    written = get_training_cfg()
    written.SOLVER.OPTIMIZER = "AdamW"
    (tmp_path / "config.yaml").write_text(written.dump())
    cfg = get_cfg()
    enl_detectron2.add_enl_config(cfg)
    enl_detectron2.add_training_config(cfg)
    cfg.merge_from_file(str(tmp_path / "config.yaml"))
    assert cfg.SOLVER == written.SOLVER and cfg.DATALOADER == written.DATALOADER
    assert cfg.MODEL.ENL_FPN == written.MODEL.ENL_FPN


def test_a_new_key_of_a_lazy_config_is_pointed_out(caplog):
    with caplog.at_level(logging.WARNING):
        known = ["train.max_iter=5", "train.seed=1", "+model.backbone.block_options={init_std: 1}"]
        cfg = load_config("lazy/enl_rcnn_R50.py", known)
        assert cfg.train.max_iter == 5 and not caplog.text
        load_config("lazy/enl_rcnn_R50.py", ["train.max_itr=5", "trian.max_iter=5"])
    for key in ("train.max_itr", "trian.max_iter"):
        assert f"{key} is not a key of the configuration" in caplog.text
