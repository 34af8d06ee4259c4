"""Recall and AP by the objects' size and by how often their class repeats in the image.

    enl errors --annotations val.json --images val/ --output errors \\
        --model baseline trained/nuclei_rcnn_lite0.yaml \\
        --model ENL trained/nuclei_enl_rcnn_lite0.yaml
    enl errors --annotations val.json --output errors \\
        --results "baseline=output/rcnn/inference/coco_instances_results.json" \\
                  "ENL=output/enl_rcnn/inference/coco_instances_results.json"

Prints the tables, and for each model whether repetition helps it; writes errors.csv and errors.png.
"""

import argparse

from enl_detectron2.analysis import command_line


def parse_args() -> argparse.Namespace:
    parser = command_line.new_parser(__doc__)
    command_line.add_models(parser)
    command_line.add_output_folder(parser)
    command_line.add_threshold(parser, "--score-threshold")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    results = command_line.results_of(args)

    from enl_detectron2.analysis.detections import errors_report
    from enl_detectron2.analysis.detections.errors import analyze_errors

    analyses = analyze_errors(args.annotations, results, score_threshold=args.score_threshold)
    args.output.mkdir(parents=True, exist_ok=True)
    errors_report.write_csv(analyses, args.output / "errors.csv")
    errors_report.plot_analyses(analyses, args.output / "errors.png")
    print(errors_report.format_analyses(analyses))
