"""What is wrong with a COCO-format data set, and what is in it.

    enl check annotations.json images/

Prints every finding with its file and id, then a summary with the settings that suit the set.
With --repair it also writes the file anew, with the boxes' areas in place of impossible ones.
Exit status: 0 if there are no errors (warnings only are fine), 1 if there are, 2 if the annotation
file can't be read at all.
"""

from enl_detectron2.analysis.command_line import folder, new_parser


def main(arguments: list[str] | None = None) -> None:
    parser = new_parser(__doc__)
    parser.add_argument("annotations", help="the .json file")
    parser.add_argument(
        "images", type=folder, help="the folder that its file names are relative to"
    )
    parser.add_argument("--quick", action="store_true", help="don't decode the images")
    parser.add_argument(
        "--deep-images",
        choices=("refuse", "rescale"),
        default="refuse",
        help="images of more than 8 bits a channel, as DATALOADER.DEEP_IMAGES (default: refuse)",
    )
    parser.add_argument(
        "--repair",
        metavar="NEW.json",
        help="write the annotation file anew, with the boxes' areas in place of impossible ones, "
        "missing values filled in, and whole numbers as such",
    )
    args = parser.parse_args(arguments)

    from enl_detectron2.training.data.check import check_annotations, check_images
    from enl_detectron2.training.data.coco_file import read_coco, repair
    from enl_detectron2.training.data.description import describe

    coco = read_coco(args.annotations, args.images)
    findings = check_annotations(coco)
    if not args.quick:
        findings += check_images(coco, args.deep_images)
    for finding in findings:
        print(finding)
    if findings:
        print()
    print(describe(coco))
    errors = sum(finding.is_error for finding in findings)
    print(f"\n{errors} errors, {len(findings) - errors} warnings")
    if args.repair:
        count = repair(coco, args.repair)
        print(f"{args.repair} has the box's area for {count} annotations")
    parser.exit(1 if errors else 0)
