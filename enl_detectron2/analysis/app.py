"""The page of ``enl app``: drop a photograph, see what is found, click to see what it looks at."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import gradio
import numpy as np
from detectron2.structures import Instances

from enl_detectron2.analysis.attention.figures import draw_attention
from enl_detectron2.analysis.attention.maps import capture_attention
from enl_detectron2.analysis.detections.batch import large_images
from enl_detectron2.analysis.detections.counts import COUNTS, DETECTIONS, Counts
from enl_detectron2.analysis.detections.drawn import LEAST_DRAWN, draw_instances
from enl_detectron2.analysis.detections.prediction import predict
from enl_detectron2.analysis.detector import Detector, naming
from enl_detectron2.model_zoo import PHOTOGRAPHS
from enl_detectron2.training.evaluation import Limit
from enl_detectron2.utils.text import one_line

SCORE = 0.5  # where the slider starts
LEAST = 0.05  # where it ends; what scores less isn't kept


@dataclass(frozen=True)
class Looked:
    """A photograph, (height, width, 3) uint8, BGR, and all that was found on it."""

    file: str
    image: np.ndarray
    found: Instances
    tiled: bool
    warning: str  # if the model, or in a tile, gave as much as it may

    def above(self, score: float) -> Instances:
        return self.found[self.found.scores >= score]


@contextlib.contextmanager
def _told(file: str) -> Iterator[None]:
    """What fails because of a photograph is shown on the page, as the commands print it."""
    try:
        with naming(file):
            yield
    except (ValueError, OSError) as error:  # where an upload lies says nothing
        raise gradio.Error(one_line(error).replace(file, Path(file).name)) from error


def build_page(detector: Detector, title: str, folder: str) -> gradio.Blocks:
    """The page for a detector.

    Args:
        detector: of ``load_detector``.
        title: what the page is called.
        folder: where results are written for the browser to fetch.
    """

    def look(file: str | None, tile: int) -> Looked | None:
        if file is None:
            return None
        with (
            _told(file),
            large_images() if tile else contextlib.nullcontext(),
            Limit(detector.model, LEAST) as limit,
        ):
            image = detector.read_image(file, "BGR")
            found = predict(
                replace(detector, tile=tile), image, score_threshold=LEAST, name=Path(file).name
            )
        return Looked(file, image, found, tile > 0, limit.warning(tile) if limit.files else "")

    def show(looked: Looked | None, score: float):
        if looked is None:
            return None, "", None
        found = looked.above(score)
        counts, results = Counts(detector), tempfile.mkdtemp(dir=folder)
        counts.add(looked.file, found)
        counts.write(results)
        drawing = draw_instances(looked.image, found, detector)[:, :, ::-1]
        files = [os.path.join(results, name) for name in (COUNTS, DETECTIONS)]
        said = counts.summary().splitlines()[:1]
        if looked.tiled or len(found) == len(looked.found):  # not if the score leaves some out
            said.append(looked.warning)
        return drawing, "\n".join(said).strip(), files

    def attend(looked: Looked, score: float, event: gradio.SelectData):
        height, width = looked.image.shape[:2]
        x, y = (place * min(1.0, max(height, width) / LEAST_DRAWN) for place in event.index)
        if y > height:  # on the strip below the photograph
            return gradio.skip()
        with _told(looked.file):
            _, attention = capture_attention(detector.model, detector.read(looked.file))
        picture = os.path.join(tempfile.mkdtemp(dir=folder), "attention.png")
        boxes = looked.above(score).pred_boxes.tensor.numpy()
        point = min(x, width), y
        draw_attention(looked.image[:, :, ::-1], attention, point, picture, boxes=boxes)
        return picture

    # One after the other: they share the model, and pyplot.
    one = {"concurrency_limit": 1, "concurrency_id": "model"}
    # Without the button that publishes a picture.
    seen = {"show_label": False, "interactive": False, "buttons": ["download", "fullscreen"]}
    with gradio.Blocks(title=title, analytics_enabled=False) as page:
        looked = gradio.State()
        gradio.Markdown(f"# {title}")
        with gradio.Row():
            with gradio.Column(scale=1):
                file = gradio.File(label="Photograph", file_types=["image"], elem_id="file")
                gradio.Examples([str(f) for f in sorted(PHOTOGRAPHS.glob("*.jpg"))], file)
                score = gradio.Slider(LEAST, 1, SCORE, step=0.01, label="Score", elem_id="score")
                most = max(2048, detector.tile)
                tile = gradio.Slider(0, most, detector.tile, step=64, label="Tile, pixels; 0: none")
                counted = gradio.Textbox(label="Found", lines=2, elem_id="counted")
                files = gradio.File(label="Results", interactive=False, elem_id="files")
            with gradio.Column(scale=3):
                drawing = gradio.Image(format="jpeg", elem_id="drawing", **seen)
                gradio.Markdown("Click a place on the photograph to see what it looks at.")
                attention = gradio.Image(elem_id="attention", **seen)
        results = [drawing, counted, files]
        for changed in (file.change, tile.release):
            changed(look, [file, tile], looked, **one).success(
                show, [looked, score], results, **one
            )
        file.change(lambda: None, None, attention)
        score.change(  # by keys, too; while it moves only the last place counts
            show,
            [looked, score],
            results,
            trigger_mode="always_last",
            show_progress="hidden",
            **one,
        )
        drawing.select(attend, [looked, score], attention, **one)
    return page
