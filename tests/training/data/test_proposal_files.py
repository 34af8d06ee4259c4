"""Files of proposals: nothing in them is run, and detectron2 takes what passes."""

import pickle

import numpy as np
import pytest
from detectron2.data.build import load_proposals_into_dataset
from detectron2.structures import BoxMode

from enl_detectron2.training.data.proposals import check_proposal_files
from enl_detectron2.utils.errors import ConfigError, MissingFile

SOUND = {
    "ids": [7, 9],
    "boxes": [np.ones((3, 4), np.float32), np.zeros((0, 4), np.float32)],
    "objectness_logits": [np.arange(3, dtype=np.float32), np.zeros(0, np.float32)],
}


class Malicious:
    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return eval, (f"open({str(self.mark)!r}, 'w')",)


def test_a_file_that_runs_code_is_refused_and_runs_nothing(tmp_path):
    mark, path = tmp_path / "was run", tmp_path / "proposals.pkl"
    path.write_bytes(pickle.dumps(SOUND | {"bbox_mode": Malicious(mark)}))
    with pytest.raises(
        ConfigError, match="FILES_TEST: .*proposals.pkl is refused: .*eval"
    ) as error:
        check_proposal_files([str(path)], "DATASETS.PROPOSAL_FILES_TEST")
    assert "\n" not in str(error.value) and not mark.exists()
    # The attack is a real one.
    pickle.loads(path.read_bytes())
    assert mark.exists()


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("old_names", [True, False])
def test_what_passes_is_what_detectron2_takes(tmp_path, protocol, old_names):
    path = tmp_path / "proposals.pkl"
    content = dict(SOUND, bbox_mode=BoxMode.XYWH_ABS)
    if old_names:
        content["indexes"] = content.pop("ids")
        content["scores"] = content.pop("objectness_logits")
    path.write_bytes(pickle.dumps(content, protocol))
    check_proposal_files([str(path)])
    records = load_proposals_into_dataset([{"image_id": 7}, {"image_id": 9}], str(path))
    assert records[0]["proposal_bbox_mode"] == BoxMode.XYWH_ABS
    assert records[0]["proposal_objectness_logits"].tolist() == [2, 1, 0]


@pytest.mark.parametrize(
    "content, said",
    [
        ([1], "must hold a dict, not a list"),
        ({}, "must have a list 'ids' or 'indexes'"),
        (SOUND | {"boxes": 3}, "must have a list 'boxes'"),
        (
            SOUND | {"ids": [7]},
            "must have as many entries in each list, not 1 ids, 2 boxes, 2 logits",
        ),
        (SOUND | {"boxes": [np.ones(4)] * 2}, "must have an array of N×4 boxes for image 7"),
        (
            SOUND | {"objectness_logits": [np.ones(2)] * 2},
            "must have an array of 3 scores for image 7",
        ),
    ],
)
def test_what_is_wrong_with_others_is_a_sentence(tmp_path, content, said):
    path = tmp_path / "proposals.pkl"
    path.write_bytes(pickle.dumps(content))
    with pytest.raises(ConfigError, match=f"PROPOSAL_FILES_TRAIN: .*proposals.pkl {said}"):
        check_proposal_files([str(path)])


def test_no_file_and_half_a_file(tmp_path):
    with pytest.raises(MissingFile, match="PROPOSAL_FILES_TRAIN: .*nowhere.pkl can't be read: No"):
        check_proposal_files([str(tmp_path / "nowhere.pkl")])
    path = tmp_path / "half.pkl"
    content = pickle.dumps(SOUND)
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(ConfigError, match="half.pkl is no whole pickle"):
        check_proposal_files([str(path)])
