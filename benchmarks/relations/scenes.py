"""The scenes of the experiment: three levels of difficulty, four relations."""

from dataclasses import replace

from enl_detectron2.digits.scenes import SceneConfig

IMAGE_SIZE = 224
NUM_TINY = (10, 16)

# What a tiny digit looks like: side in pixels, contrast, noise. headroom.py says what each leaves
# to be gained from the rest of the scene.
LEVELS = {
    "clear": SceneConfig(tiny_side=(12, 18), contrast=0.35, noise=0.13),
    "faint": SceneConfig(tiny_side=(10, 14), contrast=0.3, noise=0.2),
    "hidden": SceneConfig(tiny_side=(10, 14), contrast=0.3, noise=0.25),
}
MAIN_LEVEL = "faint"
RELATIONS = ("both", "repeats", "large", "none")
MAIN_RELATION = "both"


def scene_config(level: str, relation: str) -> SceneConfig:
    """The scenes of a level in which a tiny digit has this relation to the rest."""
    return replace(
        LEVELS[level],
        image_size=IMAGE_SIZE,
        large_side=(40, 56),
        num_tiny=NUM_TINY,
        relation=relation,
    )
