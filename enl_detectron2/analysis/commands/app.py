"""A page in the browser to drop a photograph on: detections, counts and attention of a model.

    enl app
    enl app --config-file configs/enl_rcnn_R50.yaml --opts MODEL.WEIGHTS enl.pth

Only this machine can reach the page. Photographs are deleted when the command ends, by Ctrl-C.
"""

import argparse
import os
import signal
import tempfile
from pathlib import Path

from enl_detectron2.analysis import command_line


def parse_args() -> argparse.Namespace:
    parser = command_line.new_parser(__doc__)
    command_line.add_config(parser, default="trained/nuclei_enl_rcnn_lite0.yaml")
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen on; with 0.0.0.0 whoever reaches this machine reaches the page "
        "(default: %(default)s)",
    )
    parser.add_argument("--port", type=int, help="(default: the first free one from 7860)")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    for number in (signal.SIGINT, signal.SIGTERM):  # so that the folder goes
        signal.signal(number, signal.default_int_handler)
    with tempfile.TemporaryDirectory(prefix="enl-app-") as folder:
        # Read when gradio is imported: where uploads lie, and that nobody is told of this.
        os.environ.update(GRADIO_TEMP_DIR=folder, GRADIO_ANALYTICS_ENABLED="False")
        import gradio

        from enl_detectron2.analysis.app import build_page
        from enl_detectron2.analysis.detector import load_detector
        from enl_detectron2.training.config import load_config

        detector = load_detector(load_config(args.config_file, args.opts))
        page = build_page(detector, f"Detections by {Path(args.config_file).stem}", folder)
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
