"""Every detector of detectron2 with ENL_FPN trains two steps and infers, by its own machinery.

On one drawn image with every kind of annotation: boxes, masks, keypoints and a map of stuff. Each
case changes of detectron2's own configuration what projects_readme.md says, and the widths.
"""

import cv2
import numpy as np
import pytest
import torch
from detectron2 import model_zoo
from detectron2.config import LazyCall as L
from detectron2.config import get_cfg, instantiate
from detectron2.data import (
    DatasetCatalog,
    DatasetMapper,
    MetadataCatalog,
    build_detection_train_loader,
)
from detectron2.data import transforms as T
from detectron2.data.detection_utils import create_keypoint_hflip_indices
from detectron2.engine import DefaultPredictor, DefaultTrainer, SimpleTrainer
from detectron2.layers import ShapeSpec
from detectron2.modeling import SemanticSegmentor
from detectron2.modeling.backbone import ResNet
from detectron2.modeling.backbone.resnet import BottleneckBlock
from detectron2.structures import BoxMode
from nightly import a_few

from enl_detectron2 import add_enl_config
from enl_detectron2.modeling import ENL_FPN
from enl_detectron2.training.config import add_training_config
from enl_detectron2.training.trainer import Trainer

SIZE = 160  # in training, a map of P7 must have more than one position for group norm
CHANNELS = 32  # of the pyramid; group norm, in two of the heads, has 32 groups
DATA = "one_annotated_image"
STUFF_CLASSES = 54  # COCO's, and one for all things
MASKS = ("Mask R-CNN", "Cascade Mask R-CNN", "Panoptic FPN")

# (name, YAML, the keys that ENL takes); FCOS has no YAML in detectron2.
ENL = {"MODEL.BACKBONE.NAME": "ENL_FPN"}
YAML = [
    ("Faster R-CNN", "COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml", ENL),
    ("Mask R-CNN", "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml", ENL),
    ("Cascade Mask R-CNN", "Misc/cascade_mask_rcnn_R_50_FPN_1x.yaml", ENL),
    ("Keypoint R-CNN", "COCO-Keypoints/keypoint_rcnn_R_50_FPN_1x.yaml", ENL),
    (
        "RetinaNet",
        "COCO-Detection/retinanet_R_50_FPN_1x.yaml",
        {**ENL, "MODEL.ENL_FPN.TOP_BLOCK": "LastLevelP6P7"},
    ),
    ("Panoptic FPN", "COCO-PanopticSegmentation/panoptic_fpn_R_50_1x.yaml", ENL),
    ("Semantic FPN", "Misc/semantic_R_50_FPN_1x.yaml", ENL),
]
LAZY = {
    "Faster R-CNN": "mask_rcnn_fpn",
    "Mask R-CNN": "mask_rcnn_fpn",
    "Cascade Mask R-CNN": "cascade_rcnn",
    "Keypoint R-CNN": "keypoint_rcnn_fpn",
    "RetinaNet": "retinanet",
    "FCOS": "fcos",
    "Panoptic FPN": "panoptic_fpn",
    "Semantic FPN": "panoptic_fpn",
}


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
        keypoints = rng.uniform((x, y), (x + width, y + height), (17, 2))
        annotations.append(
            {
                "bbox": [x, y, x + width, y + height],
                "bbox_mode": BoxMode.XYXY_ABS,
                "category_id": 0,
                "iscrowd": 0,
                "segmentation": [[x, y, x + width, y, x + width, y + height, x, y + height]],
                "keypoints": np.c_[keypoints, np.full(17, 2)].ravel().tolist(),
            }
        )
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


def check_outputs(name, outputs):
    """All that the architecture is there for."""
    if name in ("Panoptic FPN", "Semantic FPN"):
        assert outputs["sem_seg"].shape == (STUFF_CLASSES, SIZE, SIZE)
    if name == "Semantic FPN":
        return
    if name == "Panoptic FPN":
        segments, information = outputs["panoptic_seg"]
        assert segments.shape == (SIZE, SIZE)
        assert {entry["id"] for entry in information} == set(segments.unique().tolist()) - {0}
    instances = outputs["instances"]
    assert len(instances) > 0
    assert torch.isfinite(instances.pred_boxes.tensor).all()
    assert instances.has("pred_masks") == (name in MASKS)
    if name in MASKS:
        assert instances.pred_masks.shape == (len(instances), SIZE, SIZE)
    assert instances.has("pred_keypoints") == (name == "Keypoint R-CNN")
    if name == "Keypoint R-CNN":
        assert instances.pred_keypoints.shape == (len(instances), 17, 3)


# detectron2's own, of the keypoints of one image.
@pytest.mark.filterwarnings("ignore:Creating a tensor from a list of numpy:UserWarning")
@pytest.mark.parametrize("trainer_class", [DefaultTrainer, Trainer], ids=["detectron2s", "own"])
@pytest.mark.parametrize("name, file, keys", a_few(YAML, 3), ids=[case[0] for case in YAML])
def test_by_yaml(data, tmp_path, name, file, keys, trainer_class):
    cfg = get_cfg()
    add_enl_config(cfg)
    if trainer_class is Trainer:
        add_training_config(cfg)
    cfg.merge_from_file(model_zoo.get_config_file(file))
    cfg.merge_from_list([word for item in keys.items() for word in item])

    cfg.MODEL.WEIGHTS = ""
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    cfg.MODEL.RESNETS.NORM = "BN"
    cfg.MODEL.RESNETS.STEM_OUT_CHANNELS = 8
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 16
    cfg.MODEL.RESNETS.WIDTH_PER_GROUP = 4
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

    trainer = trainer_class(cfg)
    before = starts(trainer.model)
    trainer.train()
    check_trained(trainer.model, before)
    cfg.MODEL.WEIGHTS = str(tmp_path / "model_final.pth")
    check_outputs(name, DefaultPredictor(cfg)(cv2.imread(data["file_name"])))


def lazy_model(name):
    model = model_zoo.get_config(f"common/models/{LAZY[name]}.py").model
    if name == "Faster R-CNN":
        for key in ("mask_in_features", "mask_pooler", "mask_head"):
            del model.roi_heads[key]
    if name == "Semantic FPN":
        model = L(SemanticSegmentor)(
            backbone=model.backbone,
            sem_seg_head=model.sem_seg_head,
            pixel_mean=model.pixel_mean,
            pixel_std=model.pixel_std,
        )
    model.backbone._target_ = ENL_FPN
    return model


def narrow(model):
    resnet = model.backbone.bottom_up
    resnet.stem.update(out_channels=8, norm="BN")
    resnet.stages = [
        L(ResNet.make_stage)(
            block_class=BottleneckBlock,
            num_blocks=1,
            stride_per_block=[1 if index == 0 else 2],
            in_channels=8 if index == 0 else 8 << index,
            out_channels=16 << index,
            bottleneck_channels=4 << index,
            norm="BN",
        )
        for index in range(4)
    ]
    model.backbone.out_channels = CHANNELS
    if "in_channels" in model.backbone.top_block:
        of_p5 = model.backbone.top_block.get("in_feature") == "p5"
        model.backbone.top_block.in_channels = CHANNELS if of_p5 else 128
        model.head.update(input_shape=[ShapeSpec(channels=CHANNELS)] * 5, conv_dims=[CHANNELS] * 4)
        model.test_score_thresh, model.max_detections_per_image = 0.0, 5
    if "sem_seg_head" in model:
        model.sem_seg_head.conv_dims = 32
    if "roi_heads" not in model:
        return model
    model.proposal_generator.head.in_channels = CHANNELS
    model.proposal_generator.post_nms_topk = (50, 50)
    heads = model.roi_heads
    heads.batch_size_per_image = 16
    boxes = heads.get("box_heads") or [heads.box_head]
    predictors = heads.get("box_predictors") or [heads.box_predictor]
    for box_head, predictor in zip(boxes, predictors):
        box_head.input_shape = ShapeSpec(channels=CHANNELS, height=7, width=7)
        box_head.fc_dims = [32, 32]
        predictor.input_shape = ShapeSpec(channels=32)
        predictor.test_score_thresh = 0.0
        predictor.test_topk_per_image = 5
    for key in ("mask_head", "keypoint_head"):
        if key in heads:
            heads[key].input_shape = ShapeSpec(channels=CHANNELS, width=14, height=14)
            heads[key].conv_dims = [16, 16]
    return model


@pytest.mark.parametrize("name", a_few(LAZY, 2))
def test_by_lazy_config(data, name):
    torch.manual_seed(0)
    model = instantiate(narrow(lazy_model(name)))
    before = starts(model)
    keypoints = {}
    if name == "Keypoint R-CNN":
        flips = create_keypoint_hflip_indices([DATA])
        keypoints = {"use_keypoint": True, "keypoint_hflip_indices": flips}
    mapper = DatasetMapper(
        is_train=True,
        augmentations=[T.RandomFlip()],
        image_format="BGR",
        use_instance_mask=name in MASKS,
        **keypoints,
    )
    loader = build_detection_train_loader([data], mapper=mapper, total_batch_size=1)
    SimpleTrainer(model, loader, torch.optim.SGD(model.parameters(), lr=0.001)).train(0, 2)
    check_trained(model, before)
    image = torch.from_numpy(cv2.imread(data["file_name"])).permute(2, 0, 1)
    with torch.no_grad():
        [outputs] = model.eval()([{"image": image, "height": SIZE, "width": SIZE}])
    check_outputs(name, outputs)
