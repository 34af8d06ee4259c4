"""A page in the browser to drop a photograph on: what a model finds, counts and looks at there.

    enl app
    enl app --config-file configs/enl_rcnn_R50.yaml --opts MODEL.WEIGHTS enl.pth

Only this machine reaches the page, and nothing leaves it. What is dropped is deleted when the
command ends, by Ctrl-C.
"""

import argparse
import contextlib
import os
import signal
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from enl_detectron2.analysis.command_line import load_named_config
from enl_detectron2.utils.imports import add_import_option

if TYPE_CHECKING:
    import gradio
    import numpy as np
    from detectron2.structures import Instances

    from enl_detectron2.analysis.detector import Detector

SCORE = 0.5  # where the slider starts
LEAST = 0.05  # where it ends; what scores less isn't kept


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--config-file",
        default="trained/nuclei_enl_rcnn_lite0.yaml",
        help=".yaml, LazyConfig .py, or a name of the model zoo that has trained weights "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen on; with 0.0.0.0 whoever reaches this machine reaches the page "
        "(default: %(default)s)",
    )
    parser.add_argument("--port", type=int, help="(default: the first free one from 7860)")
    parser.add_argument(
        "--opts", nargs=argparse.REMAINDER, default=[], help="overrides of the configuration"
    )
    add_import_option(parser)
    return parser.parse_args()


@dataclass(frozen=True)
class Looked:
    """A photograph and all that was found on it."""

    file: str
    image: "np.ndarray"  # (height, width, 3) uint8, BGR
    found: "Instances"
    tiled: bool

    def above(self, score: float) -> "Instances":
        return self.found[self.found.scores >= score]


def build_page(detector: "Detector", title: str) -> "gradio.Blocks":
    """The page for a detector: its functions take and give what is shown."""
    import gradio

    from enl_detectron2.analysis.attention.figures import draw_attention
    from enl_detectron2.analysis.attention.maps import capture_attention
    from enl_detectron2.analysis.detections.batch import most_detections
    from enl_detectron2.analysis.detections.counts import COUNTS, DETECTIONS, Counts
    from enl_detectron2.analysis.detections.drawn import LEAST_DRAWN, draw_instances
    from enl_detectron2.analysis.detections.prediction import predict, predict_tiled
    from enl_detectron2.analysis.detector import naming
    from enl_detectron2.model_zoo import PHOTOGRAPHS
    from enl_detectron2.utils.command_line import one_line

    @contextlib.contextmanager
    def told(file: str):
        """What fails because of a photograph is shown on the page, as the commands print it."""
        try:
            with naming(file):
                yield
        except (ValueError, OSError) as error:  # where an upload lies says nothing
            raise gradio.Error(one_line(error).replace(file, Path(file).name)) from error

    def look(file: str | None, tile: int) -> Looked | None:
        if file is None:
            return None
        with told(file):
            image = detector.read_image(file, "BGR")
            if tile:
                found = predict_tiled(detector, image, tile, score_threshold=LEAST)
            else:
                found = predict(detector, image, score_threshold=LEAST)
        return Looked(file, image, found, bool(tile))

    def show(looked: Looked | None, score: float) -> tuple:
        if looked is None:
            return None, "", None
        found = looked.above(score)
        if not looked.tiled and len(found) == (limit := most_detections(detector.model)):
            gradio.Warning(f"{limit} objects are the most that the model gives: try tiles")
        counts, folder = Counts(detector), tempfile.mkdtemp(dir=os.environ["GRADIO_TEMP_DIR"])
        counts.add(looked.file, found)
        counts.write(folder)
        files = [os.path.join(folder, name) for name in (COUNTS, DETECTIONS)]
        drawing = draw_instances(looked.image, found, detector)[:, :, ::-1]
        return drawing, counts.summary().splitlines()[0], files

    def attend(looked: Looked, score: float, event: gradio.SelectData):
        height, width = looked.image.shape[:2]
        x, y = (n * min(1.0, max(height, width) / LEAST_DRAWN) for n in event.index)
        if not (0 <= x <= width and 0 <= y <= height):  # on the strip below the photograph
            return gradio.skip()
        with told(looked.file):
            _, attention = capture_attention(detector.model, detector.read(looked.file))
        file = os.path.join(tempfile.mkdtemp(dir=os.environ["GRADIO_TEMP_DIR"]), "attention.png")
        boxes = looked.above(score).pred_boxes.tensor.numpy()
        draw_attention(looked.image[:, :, ::-1], attention, (x, y), file, boxes=boxes)
        return file

    # One after the other: they share the model, and pyplot.
    one = {"concurrency_limit": 1, "concurrency_id": "model"}
    with gradio.Blocks(title=title, analytics_enabled=False) as page:
        looked = gradio.State()
        gradio.Markdown(f"# {title}")
        with gradio.Row():
            with gradio.Column(scale=1):
                file = gradio.File(label="Photograph", file_types=["image"], elem_id="file")
                gradio.Examples([str(f) for f in sorted(PHOTOGRAPHS.glob("*.jpg"))], file)
                score = gradio.Slider(LEAST, 1, SCORE, step=0.01, label="Score", elem_id="score")
                tile = gradio.Slider(0, 2048, 0, step=64, label="Tiles, pixels (0: none)")
                counted = gradio.Textbox(label="Found", lines=2, elem_id="counted")
                files = gradio.File(label="Results", interactive=False, elem_id="files")
            with gradio.Column(scale=3):
                drawing = gradio.Image(
                    label="Click a place to see what it looks at", interactive=False,
                    format="jpeg", elem_id="drawing",
                )  # fmt: skip
                attention = gradio.Image(label="Attention", interactive=False, elem_id="attention")
        results = [drawing, counted, files]
        for changed in (file.change, tile.release):
            changed(look, [file, tile], looked, **one).success(
                show, [looked, score], results, **one
            )
        file.change(lambda: None, None, attention)
        score.release(show, [looked, score], results, **one)
        drawing.select(attend, [looked, score], attention, **one)
    return page


def main() -> None:
    args = parse_args()
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when it is imported, as the next one
    for number in (signal.SIGINT, signal.SIGTERM):  # so that the folder goes
        signal.signal(number, signal.default_int_handler)
    with tempfile.TemporaryDirectory(prefix="enl-app-") as os.environ["GRADIO_TEMP_DIR"]:
        import gradio

        from enl_detectron2.analysis.detector import load_detector

        detector = load_detector(load_named_config(args.config_file, args.opts))
        page = build_page(detector, f"Detections by {Path(args.config_file).stem}")
        _, address, _ = page.launch(
            server_name=args.host,
            server_port=args.port,
            share=False,
            ssr_mode=False,
            footer_links=[],
            run_history=False,
            theme=gradio.themes.Default(font="sans-serif", font_mono="monospace"),
            quiet=True,
            prevent_thread_lock=True,
        )
        print(f"Open {address} in a browser; Ctrl-C ends it.", flush=True)
        page.block_thread()
