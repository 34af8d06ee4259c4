"""Every detector of detectron2 with ENL_FPN trains two steps and infers, by its own machinery.

On one drawn image with every kind of annotation: boxes, masks, keypoints and a map of stuff. Each
case changes of detectron2's own configuration what projects_readme.md says, and the widths.
"""

import cv2
import numpy as np
import pytest
import torch
from detectron2 import model_zoo
from detectron2.config import get_cfg, instantiate
from detectron2.data import (
    DatasetCatalog,
    DatasetMapper,
    MetadataCatalog,
    build_detection_train_loader,
)
from detectron2.data import transforms as T
from detectron2.engine import DefaultPredictor, DefaultTrainer, SimpleTrainer
from detectron2.structures import BoxMode
from nightly import a_few
from tiny_training import make_slim

from enl_detectron2 import add_enl_config
from enl_detectron2.modeling import ENL_FPN

SIZE = 160  # in training, a map of P7 must have more than one position for group norm
CHANNELS = 32  # of the pyramid; group norm, in two of the heads, has 32 groups
DATA = "one_annotated_image"
STUFF_CLASSES = 54  # COCO's, and one for all things


YAML = [
    ("Faster R-CNN", "COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml", {}),
    ("Mask R-CNN", "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml", {}),
    ("Cascade Mask R-CNN", "Misc/cascade_mask_rcnn_R_50_FPN_1x.yaml", {}),
    ("Keypoint R-CNN", "COCO-Keypoints/keypoint_rcnn_R_50_FPN_1x.yaml", {}),
    (
        "RetinaNet",
        "COCO-Detection/retinanet_R_50_FPN_1x.yaml",
        {"MODEL.ENL_FPN.TOP_BLOCK": "LastLevelP6P7"},
    ),
    ("Panoptic FPN", "COCO-PanopticSegmentation/panoptic_fpn_R_50_1x.yaml", {}),
    ("Semantic FPN", "Misc/semantic_R_50_FPN_1x.yaml", {}),
]


def record(folder):
    """One image of two bright blobs, people with 17 keypoints, on two kinds of ground."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 60, (SIZE, SIZE, 3), dtype=np.uint8)
    stuff = np.zeros((SIZE, SIZE), dtype=np.uint8)
    stuff[: SIZE // 2] = 1
    annotations = []
    for x, y, width, height in [(8, 12, 30, 40), (50, 30, 36, 50)]:
        image[y : y + height, x : x + width] += 120
        stuff[y : y + height, x : x + width] = STUFF_CLASSES - 1
        right, bottom = x + width, y + height
        keypoints = np.c_[rng.uniform((x, y), (right, bottom), (17, 2)), np.full(17, 2)]
        one = {"bbox": [x, y, right, bottom], "bbox_mode": BoxMode.XYXY_ABS, "category_id": 0}
        one["segmentation"] = [[x, y, right, y, right, bottom, x, bottom]]
        annotations.append(one | {"iscrowd": 0, "keypoints": keypoints.ravel().tolist()})
    files = {"file_name": folder / "image.png", "sem_seg_file_name": folder / "stuff.png"}
    for path, content in zip(files.values(), (image, stuff)):
        cv2.imwrite(str(path), content)
    paths = {key: str(path) for key, path in files.items()}
    return {**paths, "image_id": 1, "height": SIZE, "width": SIZE, "annotations": annotations}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    entry = record(tmp_path_factory.mktemp("data"))
    DatasetCatalog.register(DATA, lambda: [entry])
    people = MetadataCatalog.get("keypoints_coco_2017_train")
    MetadataCatalog.get(DATA).set(
        thing_classes=["person"],
        thing_dataset_id_to_contiguous_id={1: 0},
        stuff_classes=[str(index) for index in range(STUFF_CLASSES)],
        stuff_dataset_id_to_contiguous_id={index: index for index in range(STUFF_CLASSES)},
        keypoint_names=people.keypoint_names,
        keypoint_flip_map=people.keypoint_flip_map,
    )
    yield entry
    DatasetCatalog.remove(DATA)
    MetadataCatalog.remove(DATA)


def starts(model):
    blocks = {n: p.detach().clone() for n, p in model.named_parameters() if "relation" in n}
    assert len(blocks) == 24  # three blocks of four projections
    return blocks


def check_trained(model, before):
    assert isinstance(model.backbone, ENL_FPN)
    for name, parameter in model.named_parameters():
        assert torch.isfinite(parameter).all(), name
        if name in before and name.endswith("out.weight"):
            assert not torch.equal(parameter, before[name]), f"{name} didn't learn"


# detectron2's own, of the keypoints of one image.
@pytest.mark.filterwarnings("ignore:Creating a tensor from a list of numpy:UserWarning")
@pytest.mark.parametrize("name, file, keys", a_few(YAML, 4), ids=[case[0] for case in YAML])
def test_by_yaml(data, tmp_path, name, file, keys):
    cfg = get_cfg()
    add_enl_config(cfg)
    cfg.merge_from_file(model_zoo.get_config_file(file))
    cfg.MODEL.BACKBONE.NAME = "ENL_FPN"
    cfg.merge_from_list([word for item in keys.items() for word in item])
    cfg.MODEL.WEIGHTS = ""
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    cfg.MODEL.RESNETS.NORM = "BN"
    make_slim(cfg)
    cfg.MODEL.FPN.OUT_CHANNELS = CHANNELS
    cfg.MODEL.ROI_BOX_HEAD.FC_DIM = 32
    cfg.MODEL.ROI_MASK_HEAD.CONV_DIM = 16
    cfg.MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS = [16]
    cfg.MODEL.SEM_SEG_HEAD.CONVS_DIM = 32
    cfg.MODEL.RPN.POST_NMS_TOPK_TRAIN = cfg.MODEL.RPN.POST_NMS_TOPK_TEST = 50
    cfg.MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE = 16
    # Hardly trained, they score nothing above the usual thresholds.
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = cfg.MODEL.RETINANET.SCORE_THRESH_TEST = 0.0
    cfg.TEST.DETECTIONS_PER_IMAGE = 5
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = (DATA,), ()
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MIN_SIZE_TEST = (SIZE,), SIZE
    cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.MAX_ITER, cfg.SOLVER.STEPS = 1, 2, ()
    cfg.SOLVER.WARMUP_ITERS = 0
    cfg.SOLVER.BASE_LR = 0.001
    cfg.OUTPUT_DIR = str(tmp_path)

    trainer = DefaultTrainer(cfg)
    before = starts(trainer.model)
    trainer.train()
    check_trained(trainer.model, before)
    cfg.MODEL.WEIGHTS = str(tmp_path / "model_final.pth")
    outputs = DefaultPredictor(cfg)(cv2.imread(data["file_name"]))
    assert set(outputs) == {"Panoptic FPN": {"sem_seg", "instances", "panoptic_seg"}}.get(
        name, {"sem_seg" if name == "Semantic FPN" else "instances"}
    )


def test_fcos_by_lazy_config(data):
    """At full width, with norms that random weights need; detectron2 has it by LazyConfig alone."""
    model = model_zoo.get_config("common/models/fcos.py").model
    model.backbone._target_ = ENL_FPN
    resnet = model.backbone.bottom_up
    resnet.freeze_at, resnet.stem.norm, resnet.stages.norm = 0, "BN", "BN"
    model.test_score_thresh = 0.0
    torch.manual_seed(0)
    model = instantiate(model)
    before = starts(model)
    mapper = DatasetMapper(is_train=True, augmentations=[T.RandomFlip()], image_format="BGR")
    loader = build_detection_train_loader([data], mapper=mapper, total_batch_size=1)
    SimpleTrainer(model, loader, torch.optim.SGD(model.parameters(), lr=1e-4)).train(0, 2)
    check_trained(model, before)
    image = torch.from_numpy(cv2.imread(data["file_name"])).permute(2, 0, 1)
    with torch.no_grad():
        [outputs] = model.eval()([{"image": image, "height": SIZE, "width": SIZE}])
    assert len(outputs["instances"]) > 0
